//! Kinds that two groups or versions serve in different words.

use serde_json::{Map, Value, json};

use super::Conversion;

/// Fields of an event: in the core group, and in `events.k8s.io`.
const EVENT: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

pub(super) fn out(conversion: Conversion, value: &Value) -> Value {
    let mut value = value.clone();
    match conversion {
        Conversion::None => {}
        Conversion::Events => rename(&mut value, EVENT.into_iter()),
        Conversion::AutoscalingV1 => {
            if let Some(spec) = value["spec"].as_object_mut() {
                metrics_to_percentage(spec);
            }
        }
    }
    value
}

pub(super) fn into(conversion: Conversion, mut value: Value) -> Value {
    match conversion {
        Conversion::None => {}
        Conversion::Events => rename(&mut value, EVENT.into_iter().map(|(core, events)| (events, core))),
        Conversion::AutoscalingV1 => {
            if let Some(spec) = value["spec"].as_object_mut()
                && let Some(percentage) = spec.remove("targetCPUUtilizationPercentage")
            {
                spec.insert("metrics".into(), cpu(&percentage));
            }
        }
    }
    value
}

fn rename(value: &mut Value, names: impl Iterator<Item = (&'static str, &'static str)>) {
    let Some(fields) = value.as_object_mut() else { return };
    for (from, to) in names {
        if let Some(field) = fields.remove(from) {
            fields.insert(to.into(), field);
        }
    }
}

fn cpu(percentage: &Value) -> Value {
    json!([{
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percentage}},
    }])
}

/// `autoscaling/v1` knows one metric: the CPU's utilization.
fn metrics_to_percentage(spec: &mut Map<String, Value>) {
    let metrics = spec.remove("metrics");
    let cpu =
        metrics.iter().flat_map(|all| all.as_array()).flatten().find(|one| one["resource"]["name"] == "cpu");
    if let Some(percentage) = cpu.map(|one| one["resource"]["target"]["averageUtilization"].clone())
        && !percentage.is_null()
    {
        spec.insert("targetCPUUtilizationPercentage".into(), percentage);
    }
}
