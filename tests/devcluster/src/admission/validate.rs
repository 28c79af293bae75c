//! What an object must be, as far as the tests depend on being refused.

use serde_json::{Value, json};

use super::{events, families, names, services, slices};
use crate::{http::failure::Cause, registry::Kind, selector::LabelSelector, store::text};

/// What a StatefulSet's update may change.
const STATEFUL_SET_MUTABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

/// All values of a ConfigMap together.
const CONFIG_MAP_LIMIT: usize = 1024 * 1024;

/// Everything that is wrong with an object; `old` is what it replaces.
pub fn validate(kind: &Kind, value: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    names::metadata(kind, value, &mut causes);
    if let Some(old) = old {
        names::finalizers(value, old, &mut causes);
    }
    let spec = &value["spec"];
    match (kind.group.as_str(), kind.plural.as_str()) {
        ("apps", plural) if plural != "controllerrevisions" => workload(kind, value, old, &mut causes),
        ("", "pods") => {
            pod_spec(spec, "spec", &mut causes);
            deletion_cost(value, old, &mut causes);
        }
        ("", "services") => service(spec, &mut causes),
        ("" | "events.k8s.io", "events") => events::event(kind, value, old, &mut causes),
        ("", "configmaps") => config_map(value, old, &mut causes),
        ("discovery.k8s.io", _) => slices::endpoint_slice(value, old, &mut causes),
        ("autoscaling", _) => autoscaler(spec, &mut causes),
        ("coordination.k8s.io", _) => lease(spec, &mut causes),
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings")
            if old.is_some_and(|old| old["roleRef"] != value["roleRef"]) =>
        {
            causes.push(Cause::invalid("roleRef", &value["roleRef"], "cannot change roleRef"));
        }
        ("apiextensions.k8s.io", _) => definition(value, &mut causes),
        _ => {}
    }
    causes
}

fn not_negative(value: &Value, field: &str, causes: &mut Vec<Cause>) {
    if value.as_i64().is_some_and(|number| number < 0) {
        causes.push(Cause::invalid(field, value, "must be greater than or equal to 0"));
    }
}

/// Deployments and their like.
fn workload(kind: &Kind, value: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let (spec, template) = (&value["spec"], &value["spec"]["template"]);
    not_negative(&spec["replicas"], "spec.replicas", causes);
    let selector = LabelSelector::of(&spec["selector"]);
    if spec["selector"].is_null() {
        causes.push(Cause::required("spec.selector", ""));
    } else if selector.is_empty() {
        let why = format!("empty selector is invalid for {}", kind.singular);
        causes.push(Cause::invalid("spec.selector", &spec["selector"], &why));
    } else if !selector.matches(&template["metadata"]["labels"]) {
        let why = "`selector` does not match template `labels`";
        causes.push(Cause::invalid("spec.template.metadata.labels", &template["metadata"]["labels"], why));
    }
    pod_spec(&template["spec"], "spec.template.spec", causes);
    let policy = &template["spec"]["restartPolicy"];
    if policy != "Always" {
        causes.push(Cause::unsupported("spec.template.spec.restartPolicy", policy, &["Always"]));
    }
    let Some(old) = old else { return };
    if kind.plural == "statefulsets" {
        let fixed = |spec: &Value| -> Value {
            let mut spec = spec.clone();
            if let Some(fields) = spec.as_object_mut() {
                fields.retain(|name, _| !STATEFUL_SET_MUTABLE.contains(&name.as_str()));
            }
            spec
        };
        if fixed(&old["spec"]) != fixed(spec) {
            let why = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                       'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                       'minReadySeconds' are forbidden";
            causes.push(Cause::forbidden("spec", why));
        }
    } else if old["spec"]["selector"] != spec["selector"] {
        causes.push(Cause::invalid("spec.selector", &spec["selector"], "field is immutable"));
    }
}

fn pod_spec(spec: &Value, at: &str, causes: &mut Vec<Cause>) {
    let containers = spec["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
    if containers.is_empty() {
        causes.push(Cause::required(format!("{at}.containers"), ""));
    }
    let mut seen = Vec::new();
    for list in ["containers", "initContainers"] {
        for (index, container) in spec[list].as_array().into_iter().flatten().enumerate() {
            let at = format!("{at}.{list}[{index}]");
            let name = text(&container["name"]);
            if name.is_empty() {
                causes.push(Cause::required(format!("{at}.name"), ""));
            } else if !names::is_label(name) {
                causes.push(Cause::invalid(format!("{at}.name"), &container["name"], names::LABEL));
            } else if seen.contains(&name) {
                causes.push(Cause::duplicate(format!("{at}.name"), &container["name"]));
            }
            seen.push(name);
            if text(&container["image"]).is_empty() {
                causes.push(Cause::required(format!("{at}.image"), ""));
            }
            for (index, port) in container["ports"].as_array().into_iter().flatten().enumerate() {
                port_number(&port["containerPort"], &format!("{at}.ports[{index}].containerPort"), causes);
            }
        }
    }
}

/// What was there before may stay.
fn deletion_cost(pod: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
    let cost = |pod: &'_ Value| pod["metadata"]["annotations"][COST].as_str().map(str::to_owned);
    let is_valid =
        |cost: &String| cost == "0" || !cost.starts_with(['0', '+']) && cost.parse::<i32>().is_ok();
    if let Some(wrong) = cost(pod).filter(|cost| !is_valid(cost))
        && old.and_then(cost).is_none_or(|old| is_valid(&old))
    {
        let field = format!("metadata.annotations[{COST}]");
        causes.push(Cause::invalid(&field, &Value::from(wrong), "must be a 32bit integer"));
    }
}

pub(super) fn port_number(port: &Value, at: &str, causes: &mut Vec<Cause>) {
    if !port.as_i64().is_some_and(|port| (1..=65535).contains(&port)) {
        causes.push(Cause::invalid(at, port, "must be between 1 and 65535, inclusive"));
    }
}

fn service(spec: &Value, causes: &mut Vec<Cause>) {
    names::labels(&spec["selector"], "spec.selector", causes);
    services::validate(spec, causes);
    let external = spec["type"] == "ExternalName";
    if external && text(&spec["externalName"]).is_empty() {
        causes.push(Cause::required("spec.externalName", ""));
    }
    if !external {
        families::validate(spec, causes);
    }
    let ports = spec["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    if ports.is_empty() && !external && spec["clusterIP"] != "None" {
        causes.push(Cause::required("spec.ports", ""));
    }
    for (index, port) in ports.iter().enumerate() {
        let at = format!("spec.ports[{index}]");
        port_number(&port["port"], &format!("{at}.port"), causes);
        let name = text(&port["name"]);
        if name.is_empty() && ports.len() > 1 {
            causes.push(Cause::required(format!("{at}.name"), ""));
        }
        if !name.is_empty() && !names::is_label(name) {
            causes.push(Cause::invalid(format!("{at}.name"), &port["name"], names::LABEL));
        }
        if !name.is_empty() && ports[..index].iter().any(|other| other["name"] == name) {
            causes.push(Cause::duplicate(format!("{at}.name"), &port["name"]));
        }
        names::target_port(&port["targetPort"], &format!("{at}.targetPort"), causes);
        names::app_protocol(&port["appProtocol"], &format!("{at}.appProtocol"), causes);
        let number = json!({"protocol": port["protocol"], "port": port["port"]});
        if ports[..index].iter().any(|other| same_port(other, port)) {
            causes.push(Cause::duplicate(&at, &number));
        }
        if !matches!(text(&port["protocol"]), "TCP" | "UDP" | "SCTP") {
            causes.push(Cause::unsupported(
                format!("{at}.protocol"),
                &port["protocol"],
                &["SCTP", "TCP", "UDP"],
            ));
        }
    }
}

/// Keys that can be files, and no more than an object of etcd's can hold.
fn config_map(value: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    for field in ["data", "binaryData"] {
        for key in value[field].as_object().into_iter().flatten().map(|(key, _)| key) {
            let twice = field == "data" && value["binaryData"].get(key).is_some();
            let twice = twice.then_some("duplicate of key present in binaryData");
            for why in names::no_file(key).into_iter().chain(twice) {
                causes.push(Cause::invalid(format!("{field}[{key}]"), &json!(key), why));
            }
        }
    }
    if let Some(old) = old.filter(|old| old["immutable"] == true) {
        for field in ["immutable", "data", "binaryData"].iter().filter(|field| old[**field] != value[**field])
        {
            causes.push(Cause::forbidden(*field, "field is immutable when `immutable` is set"));
        }
    }
    let texts = ["data", "binaryData"].into_iter().filter_map(|field| value[field].as_object()).flatten();
    if texts.map(|(_, value)| text(value).len()).sum::<usize>() > CONFIG_MAP_LIMIT {
        let message = format!("Too long: may not be more than {CONFIG_MAP_LIMIT} bytes");
        causes.push(Cause { reason: "FieldValueTooLong", field: String::new(), message });
    }
}

fn same_port(one: &Value, other: &Value) -> bool {
    ["protocol", "port"].iter().all(|field| one[*field] == other[*field])
}

fn autoscaler(spec: &Value, causes: &mut Vec<Cause>) {
    let (least, most) =
        (spec["minReplicas"].as_i64().unwrap_or(1), spec["maxReplicas"].as_i64().unwrap_or(0));
    if most < 1 {
        causes.push(Cause::invalid("spec.maxReplicas", &json!(most), "must be greater than 0"));
    }
    if most < least {
        let why = "must be greater than or equal to `minReplicas`";
        causes.push(Cause::invalid("spec.maxReplicas", &json!(most), why));
    }
    // As a cluster with the feature HPAScaleToZero has it: its own CPU does not show whether it is idle.
    let elsewhere = |metric: &Value| matches!(text(&metric["type"]), "Object" | "External");
    let from_zero = spec["metrics"].as_array().is_some_and(|metrics| metrics.iter().any(elsewhere));
    if least < i64::from(!from_zero) {
        let why = "must be greater than or equal to 1";
        causes.push(Cause::invalid("spec.minReplicas", &json!(least), why));
    }
}

fn lease(spec: &Value, causes: &mut Vec<Cause>) {
    let seconds = &spec["leaseDurationSeconds"];
    if seconds.as_i64().is_some_and(|seconds| seconds <= 0) {
        causes.push(Cause::invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0"));
    }
    not_negative(&spec["leaseTransitions"], "spec.leaseTransitions", causes);
}

fn definition(value: &Value, causes: &mut Vec<Cause>) {
    let (spec, names) = (&value["spec"], &value["spec"]["names"]);
    let wanted = format!("{}.{}", text(&names["plural"]), text(&spec["group"]));
    if value["metadata"]["name"] != wanted.as_str() {
        let why = "must be spec.names.plural+\".\"+spec.group";
        causes.push(Cause::invalid("metadata.name", &value["metadata"]["name"], why));
    }
    for field in ["plural", "kind"] {
        if text(&names[field]).is_empty() {
            causes.push(Cause::required(format!("spec.names.{field}"), ""));
        }
    }
    if !matches!(text(&spec["scope"]), "Namespaced" | "Cluster") {
        causes.push(Cause::unsupported("spec.scope", &spec["scope"], &["Cluster", "Namespaced"]));
    }
    let versions = spec["versions"].as_array().map(Vec::as_slice).unwrap_or_default();
    if versions.iter().filter(|version| version["storage"] == true).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        causes.push(Cause::invalid("spec.versions", &spec["versions"], why));
    }
    for (index, version) in versions.iter().enumerate() {
        if !version["schema"]["openAPIV3Schema"].is_object() {
            let at = format!("spec.versions[{index}].schema.openAPIV3Schema");
            causes.push(Cause::required(at, "schemas are required"));
        }
    }
}
