//! What the daemons are given: flags and namespace files, read by their own parsers; and how they are run.

use std::time::Duration;

use clap::Parser;
use daemon::namespace_file::NamespaceFile;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Container, PodSpec},
};
use kube::core::DynamicObject;
use serde::de::DeserializeOwned;

use crate::values::{SETS, of_kind, rendered};

fn typed<T: DeserializeOwned>(object: &DynamicObject) -> T {
    serde_json::to_value(object).and_then(serde_json::from_value).expect("an object of its kind")
}

/// Both daemons' pods.
fn pods(objects: &[DynamicObject]) -> Vec<(PodSpec, Container)> {
    let pods: Vec<_> = of_kind(objects, "Deployment")
        .into_iter()
        .map(|object| {
            let pod = typed::<Deployment>(object).spec.unwrap().template.spec.unwrap();
            let [container] = &pod.containers[..] else { panic!("one container each") };
            let container = container.clone();
            (pod, container)
        })
        .collect();
    assert_eq!(pods.len(), 2, "autoscaler and dlx");
    pods
}

/// The namespace files of the ConfigMap: the key, and the text.
pub fn namespace_files(objects: &[DynamicObject]) -> Vec<(String, String)> {
    let [map] = &of_kind(objects, "ConfigMap")[..] else { panic!("one ConfigMap") };
    typed::<ConfigMap>(map).data.unwrap().into_iter().collect()
}

#[test]
fn the_daemons_take_the_flags_they_are_given() {
    for (name, values) in SETS {
        for (_, container) in pods(&rendered(values)) {
            let line = std::iter::once(container.name.clone()).chain(container.args.unwrap());
            let grace = match container.name.as_str() {
                "autoscaler" => {
                    autoscaler::Flags::try_parse_from(line).map(|flags| flags.common.shutdown_grace)
                }
                "dlx" => dlx::Flags::try_parse_from(line).map(|flags| flags.common.shutdown_grace),
                other => panic!("{name}: a container {other}"),
            };
            grace.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
}

/// A second signal, a SIGKILL, loses what is in flight: the kubelet's must not come before the daemon is through.
#[test]
fn a_pod_outlives_its_daemons_grace() {
    for (name, values) in SETS {
        for (pod, container) in pods(&rendered(values)) {
            let line = std::iter::once(container.name.clone()).chain(container.args.unwrap());
            let grace = match container.name.as_str() {
                "autoscaler" => autoscaler::Flags::parse_from(line).common.shutdown_grace,
                _ => dlx::Flags::parse_from(line).common.shutdown_grace,
            };
            let drain = container
                .lifecycle
                .and_then(|lifecycle| lifecycle.pre_stop?.sleep)
                .map_or(0, |sleep| sleep.seconds);
            let pod = pod.termination_grace_period_seconds.unwrap();
            let needed = grace + Duration::from_secs(drain.unsigned_abs());
            assert!(
                Duration::from_secs(pod.unsigned_abs()) > needed,
                "{name}: {} has {pod} s",
                container.name
            );
        }
    }
}

#[test]
fn the_namespace_files_are_taken() {
    for (name, values) in SETS {
        let files = namespace_files(&rendered(values));
        assert!(!files.is_empty(), "{name}: no namespace file");
        for (key, text) in files {
            let file = NamespaceFile::parse(&key, text.as_bytes())
                .unwrap_or_else(|error| panic!("{name}: {error}\n{text}"));
            let expected = if key == "_all.yaml" { "*" } else { key.trim_end_matches(".yaml") };
            assert_eq!(file.namespace, expected, "{name}");
        }
    }
}

#[test]
fn a_namespace_file_says_what_the_values_say() {
    let files = namespace_files(&rendered(include_str!("../../values/on.yaml")));
    let shop = &files.iter().find(|(key, _)| key == "shop.yaml").expect("a file of shop").1;
    let settings = NamespaceFile::parse("shop.yaml", shop.as_bytes()).unwrap().settings;
    assert_eq!(settings.scale_interval, Some(Duration::from_secs(15)));
    assert_eq!(settings.max_held_requests, Some(2_000_000), "a number that is large is no fraction");
    assert_eq!(settings.max_held_bytes, Some(16 << 20));
    assert_eq!(settings.no_wake.unwrap().len(), 2);
    let names: Vec<_> = files.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(names, ["bare.yaml", "blog.yaml", "news.yaml", "scaler.yaml", "shop.yaml"]);
}

#[test]
fn the_daemons_run_with_as_little_as_can_be() {
    for (name, values) in SETS {
        for (pod, container) in pods(&rendered(values)) {
            let all = pod.security_context.unwrap();
            assert_eq!(all.run_as_non_root, Some(true), "{name}");
            assert!(all.run_as_user.unwrap() > 0, "{name}");
            assert_eq!(all.seccomp_profile.unwrap().type_, "RuntimeDefault", "{name}");
            let own = container.security_context.unwrap();
            assert_eq!(own.read_only_root_filesystem, Some(true), "{name}");
            assert_eq!(own.allow_privilege_escalation, Some(false), "{name}");
            assert_eq!(own.capabilities.unwrap().drop, Some(vec!["ALL".to_owned()]), "{name}");
            assert!(container.resources.is_some_and(|resources| resources.limits.is_some()), "{name}");
            let get =
                |probe: Option<k8s_openapi::api::core::v1::Probe>| probe.unwrap().http_get.unwrap().path;
            assert_eq!(get(container.liveness_probe).as_deref(), Some("/healthz"), "{name}");
            assert_eq!(get(container.readiness_probe).as_deref(), Some("/readyz"), "{name}");
        }
    }
}
