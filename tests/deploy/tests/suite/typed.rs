//! Every object is what the API's own types say: a field that none of them has is a mistake.

use deploy::file;
use k8s_openapi::api::{
    admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
    apps::v1::{Deployment, StatefulSet},
    autoscaling::v2::HorizontalPodAutoscaler,
    batch::v1::Job,
    core::v1::{ConfigMap, Namespace, Secret, Service, ServiceAccount},
    networking::v1::{Ingress, NetworkPolicy},
    policy::v1::PodDisruptionBudget,
    rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
};
use kube::core::DynamicObject;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::values::{MANIFESTS, SETS, rendered};

/// Kinds whose types are not Kubernetes' own: their operators check them.
const FOREIGN: [&str; 5] = [
    "gateway.networking.k8s.io/v1 HTTPRoute",
    "gateway.networking.k8s.io/v1beta1 ReferenceGrant",
    "keda.sh/v1alpha1 ScaledObject",
    "monitoring.coreos.com/v1 PrometheusRule",
    "monitoring.coreos.com/v1 ServiceMonitor",
];

/// The first thing that `object` says and its type does not know.
fn unknown(object: &DynamicObject) -> Result<(), String> {
    let types = object.types.as_ref().ok_or("no apiVersion and kind")?;
    let kind = format!("{} {}", types.api_version, types.kind);
    let value = serde_json::to_value(object).map_err(|error| error.to_string())?;
    match kind.as_str() {
        "admissionregistration.k8s.io/v1 ValidatingAdmissionPolicy" => {
            typed::<ValidatingAdmissionPolicy>(&value)
        }
        "admissionregistration.k8s.io/v1 ValidatingAdmissionPolicyBinding" => {
            typed::<ValidatingAdmissionPolicyBinding>(&value)
        }
        "admissionregistration.k8s.io/v1 MutatingAdmissionPolicy"
        | "admissionregistration.k8s.io/v1 MutatingAdmissionPolicyBinding" => mutating(value.clone()),
        "apps/v1 Deployment" => typed::<Deployment>(&value),
        "apps/v1 StatefulSet" => typed::<StatefulSet>(&value),
        "autoscaling/v2 HorizontalPodAutoscaler" => typed::<HorizontalPodAutoscaler>(&value),
        "batch/v1 Job" => typed::<Job>(&value),
        "networking.k8s.io/v1 Ingress" => typed::<Ingress>(&value),
        "networking.k8s.io/v1 NetworkPolicy" => typed::<NetworkPolicy>(&value),
        "policy/v1 PodDisruptionBudget" => typed::<PodDisruptionBudget>(&value),
        "rbac.authorization.k8s.io/v1 ClusterRole" => typed::<ClusterRole>(&value),
        "rbac.authorization.k8s.io/v1 ClusterRoleBinding" => typed::<ClusterRoleBinding>(&value),
        "rbac.authorization.k8s.io/v1 Role" => typed::<Role>(&value),
        "rbac.authorization.k8s.io/v1 RoleBinding" => typed::<RoleBinding>(&value),
        "v1 ConfigMap" => typed::<ConfigMap>(&value),
        "v1 Namespace" => typed::<Namespace>(&value),
        "v1 Secret" => typed::<Secret>(&value),
        "v1 Service" => typed::<Service>(&value),
        "v1 ServiceAccount" => typed::<ServiceAccount>(&value),
        foreign if FOREIGN.contains(&foreign) => Ok(()),
        other => Err(format!("{other}: a kind this test does not know")),
    }
}

/// The types of Kubernetes 1.33 do not have these: but for the mutations they are as the validating ones.
fn mutating(mut value: Value) -> Result<(), String> {
    if value["kind"] == "MutatingAdmissionPolicyBinding" {
        value["kind"] = "ValidatingAdmissionPolicyBinding".into();
        return typed::<ValidatingAdmissionPolicyBinding>(&value);
    }
    let spec = value["spec"].as_object_mut().ok_or("no spec")?;
    let reinvocation = spec.remove("reinvocationPolicy");
    if !reinvocation.is_none_or(|policy| policy == "Never" || policy == "IfNeeded") {
        return Err("/spec/reinvocationPolicy is Never or IfNeeded".to_owned());
    }
    for mutation in spec.remove("mutations").as_ref().and_then(Value::as_array).ok_or("no mutations")? {
        let is_patch =
            mutation["patchType"] == "JSONPatch" && mutation["jsonPatch"]["expression"].is_string();
        if !is_patch || mutation.as_object().map(serde_json::Map::len) != Some(2) {
            return Err(format!("/spec/mutations: {mutation}"));
        }
    }
    value["kind"] = "ValidatingAdmissionPolicy".into();
    typed::<ValidatingAdmissionPolicy>(&value)
}

/// Reads it as a `T` and writes that again: what `T` does not know is gone then.
fn typed<T: DeserializeOwned + Serialize>(value: &Value) -> Result<(), String> {
    let typed: T = serde_json::from_value(value.clone()).map_err(|error| error.to_string())?;
    let again = serde_json::to_value(&typed).map_err(|error| error.to_string())?;
    lost(value, &again, "")
}

fn lost(before: &Value, after: &Value, path: &str) -> Result<(), String> {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => before.iter().try_for_each(|(key, value)| {
            let path = format!("{path}/{key}");
            match after.get(key) {
                Some(again) => lost(value, again, &path),
                None => Err(format!("{path} is no field")),
            }
        }),
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => before
            .iter()
            .zip(after)
            .enumerate()
            .try_for_each(|(n, (before, after))| lost(before, after, &format!("{path}/{n}"))),
        (before, after) if before == after => Ok(()),
        // A quantity may be written as a number.
        (Value::Number(number), Value::String(text)) if number.to_string() == *text => Ok(()),
        (before, after) => Err(format!("{path}: {before} is taken as {after}")),
    }
}

fn all_known(what: &str, objects: &[DynamicObject]) {
    for object in objects {
        let kind = object.types.as_ref().map(|types| types.kind.clone()).unwrap_or_default();
        let name = object.metadata.name.clone().unwrap_or_default();
        unknown(object).unwrap_or_else(|why| panic!("{what}: {kind} {name}: {why}"));
    }
}

#[test]
fn every_object_of_the_chart_has_only_fields_of_its_kind() {
    for (name, values) in SETS {
        let objects = rendered(values);
        assert!(objects.len() >= 5, "{name}: {} objects", objects.len());
        all_known(name, &objects);
    }
}

#[test]
fn every_object_of_the_manifests_has_only_fields_of_its_kind() {
    for (path, least) in MANIFESTS {
        let objects = file(path);
        assert!(objects.len() >= least, "{path}: {} objects", objects.len());
        all_known(path, &objects);
    }
}

#[test]
fn every_object_of_the_examples_has_only_fields_of_its_kind() {
    for (path, objects) in crate::examples::files() {
        all_known(&path, &objects);
    }
}

#[test]
fn a_field_that_no_kind_has_is_found() {
    let service =
        "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 80, tragetPort: 8080}]}}";
    let [service] = &deploy::objects("service", service)[..] else { panic!("one object") };
    assert_eq!(unknown(service), Err("/spec/ports/0/tragetPort is no field".to_owned()));
}
