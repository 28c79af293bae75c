//! What the daemons are given: flags and namespace files, read by their own parsers; and how they are run.

use std::time::Duration;

use clap::Parser;
use daemon::namespace_file::NamespaceFile;
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, Container, PodSpec},
        networking::v1::NetworkPolicy,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::core::DynamicObject;
use scaler_types::ServicePorts;
use serde::de::DeserializeOwned;

use crate::values::{SETS, of_kind, rendered};

pub fn typed<T: DeserializeOwned>(object: &DynamicObject) -> T {
    serde_json::to_value(object).and_then(serde_json::from_value).expect("an object of its kind")
}

/// Both daemons' pods.
pub fn pods(objects: &[DynamicObject]) -> Vec<(PodSpec, Container)> {
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
    let maps = of_kind(objects, "ConfigMap");
    let ours = |map: &&&DynamicObject| {
        map.metadata.name.as_deref().is_some_and(|name| name.ends_with("-namespaces"))
    };
    let map = maps.iter().find(ours).expect("the ConfigMap of the namespace files");
    typed::<ConfigMap>(map).data.unwrap().into_iter().collect()
}

#[test]
fn the_daemons_take_the_flags_they_are_given() {
    for (name, values) in SETS {
        for (_, container) in pods(&rendered(values)) {
            let line = std::iter::once(container.name.clone()).chain(container.args.unwrap());
            let grace = match container.name.as_str() {
                "autoscaler" => {
                    autoscaler::AutoscalerFlags::try_parse_from(line).map(|flags| flags.common.shutdown_grace)
                }
                "dlx" => dlx::DlxFlags::try_parse_from(line).map(|flags| flags.common.shutdown_grace),
                other => panic!("{name}: a container {other}"),
            };
            grace.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
}

/// A second signal, a SIGKILL, loses what is in flight: the kubelet's must not come before the daemon is through.
#[test]
fn a_pods_grace_period_exceeds_its_daemons() {
    for (name, values) in SETS {
        for (pod, container) in pods(&rendered(values)) {
            let line = std::iter::once(container.name.clone()).chain(container.args.unwrap());
            let flags = match container.name.as_str() {
                "autoscaler" => autoscaler::AutoscalerFlags::parse_from(line).common,
                _ => dlx::DlxFlags::parse_from(line).common,
            };
            let grace = flags.shutdown_grace;
            if container.name == "dlx" && flags.service_ports.is_some() {
                // Requests in flight have as long as the values say, after the Services' endpoints have changed.
                let own = Duration::from_secs(if name == "everything on" { 300 } else { 120 });
                assert!(grace >= own + flags.endpoint_propagation_delay, "{name}: {grace:?}");
                assert!(
                    !flags.shutdown_grace_is_short(),
                    "{name}: {grace:?} for {:?}",
                    flags.endpoint_propagation_delay
                );
            }
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

/// Every declared port is bound, and the NetworkPolicies allow it as the others.
#[test]
fn both_daemons_and_the_network_policy_have_the_same_ports_for_services() {
    for (name, values) in SETS {
        let objects = rendered(values);
        let [autoscaler, dlx] = ["autoscaler", "dlx"].map(|daemon| {
            let (_, container) =
                pods(&objects).into_iter().find(|(_, container)| container.name == daemon).unwrap();
            let line = std::iter::once(daemon.to_owned()).chain(container.args.unwrap());
            match daemon {
                "autoscaler" => autoscaler::AutoscalerFlags::parse_from(line).common,
                _ => dlx::DlxFlags::parse_from(line).common,
            }
        });
        let expected = match name {
            "everything off" => None,
            "everything on" => Some(ServicePorts { first: 15_000, last: 15_999 }),
            _ => Some(ServicePorts { first: 20_000, last: 21_999 }),
        };
        assert_eq!((autoscaler.service_ports, dlx.service_ports), (expected, expected), "{name}");
        let grace = Duration::from_secs(if name == "everything on" { 45 } else { 30 });
        assert_eq!(
            (autoscaler.endpoint_propagation_delay, dlx.endpoint_propagation_delay),
            (grace, grace),
            "{name}"
        );
        let policies = of_kind(&objects, "NetworkPolicy");
        let of_dlx = |policy: &&&DynamicObject| {
            policy.metadata.name.as_deref().is_some_and(|name| name.ends_with("-dlx"))
        };
        let Some(policy) = policies.iter().find(of_dlx) else {
            assert_eq!(name, "everything off");
            continue;
        };
        let policy: NetworkPolicy = typed(policy);
        let traffic = policy.spec.unwrap().ingress.unwrap().remove(0);
        assert_eq!(traffic.from.is_some(), name == "everything on", "{name}");
        let range = traffic.ports.unwrap().into_iter().find_map(|port| Some((port.port?, port.end_port?)));
        let expected = expected.map(|ports| (IntOrString::Int(ports.first.into()), ports.last.into()));
        assert_eq!(range, expected, "{name}");
    }
}

/// An intercepted Service is never without a DLX during their rollout.
#[test]
fn a_new_dlx_is_ready_before_an_old_one_goes() {
    for (name, values) in SETS {
        let objects = rendered(values);
        let dlx = of_kind(&objects, "Deployment")
            .into_iter()
            .find(|object| object.metadata.name.as_deref().is_some_and(|name| name.ends_with("-dlx")));
        let rolling = typed::<Deployment>(dlx.expect("the DLX's")).spec.unwrap().strategy.unwrap();
        let rolling = rolling.rolling_update.expect("a rolling update");
        assert_eq!(rolling.max_unavailable, Some(IntOrString::Int(0)), "{name}");
        assert_eq!(rolling.max_surge, Some(IntOrString::Int(1)), "{name}");
    }
}

#[test]
fn the_autoscaler_gets_the_dlx_unavailable_timeout() {
    for (name, values) in SETS {
        let pods = pods(&rendered(values));
        let (_, container) = pods.into_iter().find(|(_, container)| container.name == "autoscaler").unwrap();
        let args = container.args.unwrap();
        let given = args.iter().find_map(|flag| flag.strip_prefix("--dlx-unavailable-timeout="));
        let expected = match name {
            "everything off" => None,
            "everything on" => Some("120s"),
            _ => Some("60s"),
        };
        assert_eq!(given, expected, "{name}");
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
    assert_eq!(settings.static_responses.unwrap().len(), 2);
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
