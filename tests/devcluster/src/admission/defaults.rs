//! What an object has that did not say it.

use serde_json::{Value, json};

use crate::{
    registry::Kind,
    store::{map, text},
};

/// Fills in what the real server fills in, as far as anything reads it.
pub fn defaults(kind: &Kind, value: &mut Value) {
    match (kind.group.as_str(), kind.plural.as_str()) {
        ("", "namespaces") => namespace(value),
        ("", "pods") => {
            pod(&mut value["spec"]);
            account(&mut value["spec"]);
            fill(value, json!({"status": {"phase": "Pending", "qosClass": "BestEffort"}}));
        }
        ("", "services") => service(value),
        ("", "secrets") => secret(value),
        ("apps", "deployments") => {
            let defaults = json!({"replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600, "strategy": {"type": "RollingUpdate"}});
            fill(&mut value["spec"], defaults);
            if value["spec"]["strategy"]["type"] == "RollingUpdate" {
                let rolling = json!({"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}});
                fill(&mut value["spec"]["strategy"], rolling);
            }
            template(value);
        }
        ("apps", "statefulsets") => {
            let defaults = json!({
                "replicas": 1,
                "revisionHistoryLimit": 10,
                "podManagementPolicy": "OrderedReady",
                "updateStrategy": {"type": "RollingUpdate"},
                "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
            });
            fill(&mut value["spec"], defaults);
            if value["spec"]["updateStrategy"]["type"] == "RollingUpdate" {
                fill(&mut value["spec"]["updateStrategy"], json!({"rollingUpdate": {"partition": 0}}));
            }
            template(value);
        }
        ("apps", "replicasets") | ("", "replicationcontrollers") => {
            fill(&mut value["spec"], json!({"replicas": 1}));
            template(value);
        }
        ("apps", "daemonsets") | ("batch", "jobs") => template(value),
        ("autoscaling", _) => fill(&mut value["spec"], json!({"minReplicas": 1})),
        ("discovery.k8s.io", _) => {
            for port in each(&mut value["ports"]) {
                fill(port, json!({"name": "", "protocol": "TCP"}));
            }
        }
        ("networking.k8s.io", "networkpolicies") => policy(&mut value["spec"]),
        ("apiextensions.k8s.io", _) => definition(value),
        _ => {}
    }
}

/// Adds what is not there.
fn fill(value: &mut Value, defaults: Value) {
    let fields = map(value);
    let Value::Object(defaults) = defaults else { return };
    for (name, default) in defaults {
        match fields.get_mut(&name) {
            Some(held) if held.is_object() && default.is_object() => fill(held, default),
            Some(held) if !held.is_null() => {}
            _ => drop(fields.insert(name, default)),
        }
    }
}

fn each(list: &mut Value) -> impl Iterator<Item = &mut Value> {
    list.as_array_mut().into_iter().flatten()
}

fn namespace(value: &mut Value) {
    let name = value["metadata"]["name"].clone();
    fill(value, json!({"spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}));
    fill(&mut value["metadata"], json!({"labels": {"kubernetes.io/metadata.name": name}}));
}

fn template(value: &mut Value) {
    pod(&mut value["spec"]["template"]["spec"]);
    fill(&mut value["spec"]["template"], json!({"metadata": {}}));
}

fn account(spec: &mut Value) {
    fill(spec, json!({"serviceAccountName": "default"}));
    spec["serviceAccount"] = spec["serviceAccountName"].clone();
}

fn pod(spec: &mut Value) {
    fill(
        spec,
        json!({
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst",
            "schedulerName": "default-scheduler",
            "securityContext": {},
        }),
    );
    for list in ["containers", "initContainers"] {
        if spec.get(list).is_none() {
            continue;
        }
        for one in each(&mut spec[list]) {
            container(one);
        }
    }
}

fn container(container: &mut Value) {
    let image = text(&container["image"]);
    let tag = image.rsplit('/').next().and_then(|last| last.split_once(':')).map(|(_, tag)| tag);
    let pull =
        if image.contains('@') || tag.is_some_and(|tag| tag != "latest") { "IfNotPresent" } else { "Always" };
    fill(
        container,
        json!({
            "imagePullPolicy": pull,
            "resources": {},
            "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "File",
        }),
    );
    if container.get("ports").is_some() {
        for port in each(&mut container["ports"]) {
            fill(port, json!({"protocol": "TCP"}));
        }
    }
    for name in ["readinessProbe", "livenessProbe", "startupProbe"] {
        let Some(probe) = container.get_mut(name).filter(|probe| probe.is_object()) else { continue };
        fill(
            probe,
            json!({"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}),
        );
        if probe.get("httpGet").is_some() {
            fill(&mut probe["httpGet"], json!({"path": "/", "scheme": "HTTP"}));
        }
        if probe.get("grpc").is_some() {
            fill(&mut probe["grpc"], json!({"service": ""}));
        }
    }
}

fn service(value: &mut Value) {
    fill(value, json!({"status": {"loadBalancer": {}}}));
    let spec = &mut value["spec"];
    fill(spec, json!({"type": "ClusterIP", "sessionAffinity": "None"}));
    if spec["type"] != "ExternalName" {
        fill(spec, json!({"internalTrafficPolicy": "Cluster"}));
    }
    if spec["sessionAffinity"] == "ClientIP" {
        fill(spec, json!({"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10_800}}}));
    } else if spec["sessionAffinity"] == "None" {
        map(spec).remove("sessionAffinityConfig");
    }
    let outside = spec.get("externalIPs").and_then(Value::as_array).is_some_and(|all| !all.is_empty());
    if outside || matches!(text(&spec["type"]), "NodePort" | "LoadBalancer") {
        fill(spec, json!({"externalTrafficPolicy": "Cluster"}));
    }
    if spec["type"] == "LoadBalancer" {
        fill(spec, json!({"allocateLoadBalancerNodePorts": true}));
    }
    if spec.get("ports").is_some() {
        for port in each(&mut spec["ports"]) {
            let target = port["port"].clone();
            fill(port, json!({"protocol": "TCP", "targetPort": target}));
        }
    }
}

fn policy(spec: &mut Value) {
    let outward = spec["egress"].as_array().is_some_and(|rules| !rules.is_empty());
    let both: &[&str] = if outward { &["Ingress", "Egress"] } else { &["Ingress"] };
    fill(spec, json!({"policyTypes": both}));
}

/// `stringData` is written only.
fn secret(value: &mut Value) {
    fill(value, json!({"type": "Opaque"}));
    let Some(Value::Object(plain)) = map(value).remove("stringData") else { return };
    for (name, text) in plain {
        let encoded = base64(text.as_str().unwrap_or_default().as_bytes());
        map(&mut value["data"]).insert(name, encoded.into());
    }
}

fn base64(bytes: &[u8]) -> String {
    serde_json::to_value(k8s_openapi::ByteString(bytes.to_vec()))
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}

fn definition(value: &mut Value) {
    let names = &mut value["spec"]["names"];
    let kind = text(&names["kind"]).to_owned();
    fill(names, json!({"singular": kind.to_lowercase(), "listKind": format!("{kind}List")}));
    fill(&mut value["spec"], json!({"conversion": {"strategy": "None"}}));
    if value.get("status").is_none_or(Value::is_null) {
        value["status"] = crate::registry::definition_status(value, &crate::identity::now());
    }
}
