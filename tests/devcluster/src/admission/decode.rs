//! Objects of built-in kinds are of their types: what has another type is refused, what is unknown is dropped or, if the client wishes, refused.

use std::fmt::Display;

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet, StatefulSet},
    autoscaling::v2::HorizontalPodAutoscaler,
    coordination::v1::Lease,
    core::v1::{ConfigMap, Namespace, Pod, Secret, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
    networking::v1::NetworkPolicy,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    http::failure::{Failure, Result},
    registry::Kind,
    store::map,
};

/// `value`, which has neither `kind` nor `apiVersion`, as the kind's type has it; kinds in which no mistakes are expected are left as they are.
///
/// # Errors
///
/// It is of another type; with `strict`, it has fields that the type has not.
pub fn decode(kind: &Kind, value: Value, strict: bool) -> Result<Value> {
    match (kind.group.as_str(), kind.version.as_str(), kind.plural.as_str()) {
        ("", _, "configmaps") => typed::<ConfigMap>(kind, value, strict),
        ("", _, "namespaces") => typed::<Namespace>(kind, value, strict),
        ("", _, "pods") => typed::<Pod>(kind, value, strict),
        ("", _, "secrets") => typed::<Secret>(kind, value, strict),
        ("", _, "serviceaccounts") => typed::<ServiceAccount>(kind, value, strict),
        ("", _, "services") => typed::<Service>(kind, value, strict),
        ("apps", _, "deployments") => typed::<Deployment>(kind, value, strict),
        ("apps", _, "replicasets") => typed::<ReplicaSet>(kind, value, strict),
        ("apps", _, "statefulsets") => typed::<StatefulSet>(kind, value, strict),
        ("autoscaling", "v2", _) => typed::<HorizontalPodAutoscaler>(kind, value, strict),
        ("coordination.k8s.io", ..) => typed::<Lease>(kind, value, strict),
        ("discovery.k8s.io", ..) => typed::<EndpointSlice>(kind, value, strict),
        ("networking.k8s.io", _, "networkpolicies") => typed::<NetworkPolicy>(kind, value, strict),
        _ => Ok(value),
    }
}

fn typed<T: DeserializeOwned + Serialize>(kind: &Kind, mut value: Value, strict: bool) -> Result<Value> {
    let fields = map(&mut value);
    fields.insert("kind".into(), kind.kind.as_str().into());
    fields.insert("apiVersion".into(), kind.api_version().into());
    quantities(&mut value);
    // By way of text, as kube does it for the controllers: the compiler makes the same code serve both.
    let typed: T = serde_json::from_str(&value.to_string()).map_err(|why| refused(kind, &why))?;
    let text = serde_json::to_vec(&typed).map_err(|why| refused(kind, &why))?;
    let mut decoded: Value = serde_json::from_slice(&text).map_err(|why| refused(kind, &why))?;
    if strict && let Some(unknown) = unknown(&value, &decoded) {
        let unknown = unknown.trim_start_matches('.');
        return Err(refused(kind, &format!("strict decoding error: unknown field {unknown:?}")));
    }
    let fields = map(&mut decoded);
    fields.remove("kind");
    fields.remove("apiVersion");
    Ok(decoded)
}

/// Where times to the microsecond are.
const MICRO_TIMES: [(&str, [&str; 2]); 2] = [
    ("leases", ["/spec/acquireTime", "/spec/renewTime"]),
    ("events", ["/eventTime", "/series/lastObservedTime"]),
];

/// Times to the microsecond are written with six digits behind the point, no more and no fewer.
///
/// # Errors
///
/// One is not.
pub fn micro_times(kind: &Kind, value: &Value) -> Result<()> {
    let places =
        MICRO_TIMES.iter().filter(|(plural, _)| kind.plural == *plural).flat_map(|(_, places)| places);
    for given in places.filter_map(|place| value.pointer(place)?.as_str()) {
        let digits = given.split_once('.').map_or("", |(_, rest)| rest);
        if digits.find(|letter: char| !letter.is_ascii_digit()) != Some(6) {
            let layout = "2006-01-02T15:04:05.000000Z07:00";
            return Err(refused(kind, &format!("parsing time {given:?} as {layout:?}: cannot parse it")));
        }
    }
    Ok(())
}

/// Quantities may be written as numbers (`cpu: 2`); the type takes texts only.
fn quantities(value: &mut Value) {
    fn as_text(value: &mut Value) {
        if value.is_number() {
            *value = Value::from(value.to_string());
        }
    }
    match value {
        Value::Array(all) => all.iter_mut().for_each(quantities),
        Value::Object(fields) => {
            for (name, field) in fields {
                match name.as_str() {
                    "limits" | "requests" | "overhead" => {
                        field
                            .as_object_mut()
                            .into_iter()
                            .flatten()
                            .for_each(|(_, quantity)| as_text(quantity));
                    }
                    "sizeLimit" | "averageValue" | "divisor" => as_text(field),
                    _ => quantities(field),
                }
            }
        }
        _ => {}
    }
}

fn refused(kind: &Kind, why: &dyn Display) -> Failure {
    let name = &kind.kind;
    Failure::bad_request(format!("{name} in version {:?} cannot be handled as a {name}: {why}", kind.version))
}

/// The path of a field that was sent and did not survive.
fn unknown(sent: &Value, decoded: &Value) -> Option<String> {
    match (sent, decoded) {
        (Value::Object(sent), Value::Object(decoded)) => sent
            .iter()
            .filter(|(_, value)| !value.is_null())
            .find_map(|(name, value)| match decoded.get(name) {
                Some(held) => unknown(value, held).map(|rest| format!(".{name}{rest}")),
                None => Some(format!(".{name}")),
            }),
        (Value::Array(sent), Value::Array(decoded)) => {
            sent.iter().zip(decoded).enumerate().find_map(|(index, (sent, decoded))| {
                unknown(sent, decoded).map(|rest| format!("[{index}]{rest}"))
            })
        }
        _ => None,
    }
}
