//! The limits of the defaults and of values-production.yaml fit each other; in production the pods lie apart.

use std::fs;

use clap::{ArgMatches, CommandFactory};
use deploy::chart;
use dlx::DlxFlags;
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{Container, PodSpec},
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::core::DynamicObject;
use scaler_types::ServicePorts;

use crate::{
    daemons::typed,
    values::{PRODUCTION, of_kind, rendered},
};

const MIB: u64 = 1 << 20;
/// The measured memory of a DLX with 2,000 intercepted Service ports.
const BASE: u64 = 64 * MIB;
/// What a held request costs at most, beside its own bytes.
const HELD_REQUEST: u64 = 14 << 10;
/// The file descriptors of values-production.yaml, and those that a DLX reserves.
const DESCRIPTORS: u64 = 65_536;
const RESERVED: u64 = 128;

fn daemon(objects: &[DynamicObject], name: &str) -> Deployment {
    let mut all = of_kind(objects, "Deployment").into_iter().map(typed::<Deployment>);
    all.find(|one| one.metadata.name.as_deref() == Some(name)).expect(name)
}

fn pod(daemon: &Deployment) -> (&PodSpec, &Container) {
    let pod = daemon.spec.as_ref().unwrap().template.spec.as_ref().unwrap();
    (pod, &pod.containers[0])
}

/// `512Mi`, `1Gi`.
fn bytes(quantity: &str) -> u64 {
    let (number, unit) = quantity.split_at(quantity.len() - 2);
    let unit = match unit {
        "Mi" => MIB,
        "Gi" => 1 << 30,
        other => panic!("the unit {other}"),
    };
    number.parse::<u64>().unwrap() * unit
}

/// The DLX's flags as it takes them.
fn flags(container: &Container) -> ArgMatches {
    let line = std::iter::once("dlx".to_owned()).chain(container.args.clone().unwrap());
    DlxFlags::command().get_matches_from(line)
}

fn max_held_requests(flags: &ArgMatches) -> u64 {
    u64::try_from(*flags.get_one::<usize>("max_held_requests").expect("a number")).unwrap()
}

#[test]
fn the_memory_limit_covers_everything_that_a_dlx_may_buffer() {
    for (file, values) in [("values.yaml", ""), ("values-production.yaml", PRODUCTION)] {
        let objects = rendered(values);
        let dlx = daemon(&objects, "scaler-dlx");
        let (_, container) = pod(&dlx);
        let flags = flags(container);
        let resources = container.resources.as_ref().unwrap();
        let limit = bytes(&resources.limits.as_ref().unwrap()["memory"].0);
        let request = bytes(&resources.requests.as_ref().unwrap()["memory"].0);
        let size = |flag: &str| *flags.get_one::<u64>(flag).expect("a size");
        let buffered =
            max_held_requests(&flags) * HELD_REQUEST + size("max_held_bytes") + size("max_unread_bytes");
        let sum = BASE + buffered;
        // The comment in the file has the sum, too.
        let text = fs::read_to_string(chart().join(file)).expect("a file of the chart");
        assert!(text.contains(&format!("{} MiB, and a third more", sum.div_ceil(MIB))), "{file}: {sum}");
        assert!(
            limit >= sum + sum / 3,
            "{file}: the limit is {limit}, the sum of what may be buffered {sum}"
        );
        assert!(request >= BASE && request <= limit, "{file}: {request}");
    }
}

#[test]
fn there_are_descriptors_for_every_held_request() {
    let objects = rendered(PRODUCTION);
    let dlx = daemon(&objects, "scaler-dlx");
    let flags = flags(pod(&dlx).1);
    let ports = flags.get_one::<ServicePorts>("service_ports").expect("the chart's service ports");
    let ports = u64::try_from(ports.all().count()).unwrap();
    let clients = (DESCRIPTORS - RESERVED - 2 * ports) / 2;
    assert!(
        PRODUCTION.contains(&format!("{},{:03} clients at once", clients / 1000, clients % 1000)),
        "{clients}"
    );
    assert!(clients > max_held_requests(&flags), "{clients}");
}

#[test]
fn two_of_three_dlxs_are_left_whatever_is_replaced() {
    let objects = rendered(PRODUCTION);
    for (name, replicas) in [("scaler-dlx", 3), ("scaler-autoscaler", 2)] {
        let daemon = daemon(&objects, name);
        let spec = daemon.spec.as_ref().unwrap();
        assert_eq!(spec.replicas, Some(replicas), "{name}");
        let (pod, _) = pod(&daemon);
        assert!(pod.priority_class_name.is_some(), "{name}");
        let labels = spec.template.metadata.as_ref().unwrap().labels.as_ref().unwrap();
        let spread = pod.topology_spread_constraints.as_ref().unwrap();
        let keys: Vec<_> = spread.iter().map(|one| one.topology_key.as_str()).collect();
        assert_eq!(keys, ["kubernetes.io/hostname", "topology.kubernetes.io/zone"], "{name}");
        for constraint in spread {
            // One that selects no pod spreads nothing.
            for (key, value) in constraint.label_selector.as_ref().unwrap().match_labels.as_ref().unwrap() {
                assert_eq!(labels.get(key), Some(value), "{name}: {key}");
            }
        }
        let budgets = of_kind(&objects, "PodDisruptionBudget").into_iter().map(typed::<PodDisruptionBudget>);
        let budget = budgets.into_iter().find(|one| one.metadata.name.as_deref() == Some(name)).expect(name);
        let budget = budget.spec.unwrap();
        assert_eq!(budget.max_unavailable, Some(IntOrString::Int(1)), "{name}");
        for (key, value) in budget.selector.unwrap().match_labels.unwrap() {
            assert_eq!(labels.get(&key), Some(&value), "{name}: {key}");
        }
    }
}
