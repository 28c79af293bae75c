//! examples/kubernetes fits the chart rendered with its values.

use std::{collections::BTreeSet, fs};

use deploy::{objects, root};
use kube::core::DynamicObject;
use serde_json::Value;

use crate::values::{EXAMPLE, of_kind, rendered};

/// Each file of objects: its name from the workspace's folder, and what it holds.
pub fn files() -> Vec<(String, Vec<DynamicObject>)> {
    let folder = root().join("examples/kubernetes");
    let mut files: Vec<_> = fs::read_dir(&folder)
        .expect("examples/kubernetes")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .filter(|name| name.ends_with(".yaml") && name != "values.yaml")
        .collect();
    files.sort();
    assert!(files.len() >= 4, "{files:?}");
    let read = |name: String| {
        let text = fs::read_to_string(folder.join(&name)).expect("a file");
        let objects = objects(&name, &text);
        (format!("examples/kubernetes/{name}"), objects)
    };
    files.into_iter().map(read).collect()
}

fn strings<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str)
}

/// The backends of Ingresses and HTTPRoutes exist: the DLX's Service, on its port, in its namespace.
#[test]
fn backends_of_the_examples_are_services_of_the_chart() {
    let chart = rendered(EXAMPLE);
    let services: BTreeSet<_> = of_kind(&chart, "Service")
        .into_iter()
        .flat_map(|service| {
            let namespace = service.metadata.namespace.clone().expect("a namespace");
            let name = service.metadata.name.clone().expect("a name");
            let ports = service.data["spec"]["ports"].as_array().cloned().unwrap_or_default();
            ports.into_iter().map(move |port| (namespace.clone(), name.clone(), port["port"].as_u64()))
        })
        .collect();
    let mut count = 0;
    for (path, objects) in files() {
        for object in &objects {
            let namespace = object.metadata.namespace.clone().unwrap_or_default();
            let backends: Vec<_> = match object.types.as_ref().expect("a kind").kind.as_str() {
                "Ingress" => {
                    let service = &object.data["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"];
                    let name = strings(service, "/name").expect("a name").to_owned();
                    vec![(namespace, name, service.pointer("/port/number").and_then(Value::as_u64))]
                }
                "HTTPRoute" => {
                    let backend = &object.data["spec"]["rules"][0]["backendRefs"][0];
                    let text = |key: &str| backend[key].as_str().expect("a text").to_owned();
                    vec![(text("namespace"), text("name"), backend["port"].as_u64())]
                }
                _ => continue,
            };
            for backend in backends {
                assert!(services.contains(&backend), "{path}: {backend:?} is none of {services:?}");
                count += 1;
            }
        }
    }
    assert_eq!(count, 2, "an Ingress and an HTTPRoute");
}

/// A host annotation counts only where an Ingress or HTTPRoute of the namespace has the host.
#[test]
fn annotated_hosts_have_a_route() {
    let all = files();
    let objects = || all.iter().flat_map(|(_, objects)| objects);
    let routed: BTreeSet<_> = objects()
        .filter_map(|object| {
            strings(&object.data, "/spec/rules/0/host").or_else(|| strings(&object.data, "/spec/hostnames/0"))
        })
        .collect();
    let annotated: Vec<_> = objects()
        .filter_map(|object| object.metadata.annotations.as_ref()?.get("scaler.dev/hosts"))
        .collect();
    assert!(!annotated.is_empty());
    for host in annotated {
        assert!(routed.contains(host.as_str()), "{host} is none of {routed:?}");
    }
}

/// What is applied again and again says nothing of replicas, or it would wake what sleeps.
#[test]
fn no_example_says_replicas() {
    for (path, objects) in files() {
        for object in objects {
            assert_eq!(object.data.pointer("/spec/replicas"), None, "{path}");
        }
    }
}
