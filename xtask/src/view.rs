//! What the two daemons say of each resource, put side by side.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::Result;
use serde_json::Value;

use crate::{http::get_json, scene::Addresses};

/// One resource at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Its name in the namespace.
    pub name: String,
    /// `active`, `draining`, `asleep`, `waking` or `failed`.
    pub state: String,
    /// Why it is so.
    pub why: String,
    /// Requests since the DLX counts.
    pub requests: u64,
    /// Requests at the resource right now.
    pub in_flight: u64,
    /// Requests that wait for it to come up.
    pub held: u64,
    /// What its last cold start took; empty when there was none.
    pub cold_start: String,
}

/// Every resource, in name order.
///
/// # Errors
///
/// The DLX does not answer. An autoscaler that does not costs the reasons only.
pub async fn views(addresses: Addresses) -> Result<Vec<View>> {
    let dlx = resources(addresses.dlx).await?;
    let reasons: BTreeMap<String, String> = resources(addresses.autoscaler)
        .await
        .unwrap_or_default()
        .into_iter()
        .map(|resource| (name(&resource), text(&resource, &["reason"])))
        .collect();
    let mut views: Vec<View> = dlx
        .iter()
        .map(|resource| {
            let name = name(resource);
            let mut state = text(resource, &["phase"]);
            let mut said = text(resource, &["reason"]);
            if state == "active" && count(resource, "replicas") == 0 {
                // It has no record yet: a resource that never ran has no replicas either.
                state = "asleep".to_owned();
                said = "was never asked for".to_owned();
            }
            // The autoscaler knows why something stays awake; why it sleeps or wakes stands in its record.
            let why = if state == "active" {
                reasons.get(&name).filter(|reason| !reason.is_empty()).cloned().unwrap_or(said)
            } else {
                said
            };
            View {
                state,
                why,
                requests: count(resource, "requests"),
                in_flight: count(resource, "in_flight"),
                held: count(resource, "held"),
                cold_start: cold_start(resource),
                name,
            }
        })
        .collect();
    views.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(views)
}

async fn resources(admin: SocketAddr) -> Result<Vec<Value>> {
    let answer = get_json(admin, "/api/v1/resources").await?;
    let list = answer.get("resources").unwrap_or(&answer);
    Ok(list.as_array().cloned().unwrap_or_default())
}

fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, key| value.get(key))
}

fn text(resource: &Value, paths: &[&str]) -> String {
    paths.iter().find_map(|path| at(resource, path)?.as_str()).unwrap_or_default().to_owned()
}

fn count(resource: &Value, key: &str) -> u64 {
    at(resource, key).and_then(Value::as_u64).unwrap_or_default()
}

fn name(resource: &Value) -> String {
    text(resource, &["name", "id.name"])
}

/// `51 ms`: how long the request that woke it was held.
fn cold_start(resource: &Value) -> String {
    at(resource, "cold_start.hold_ms")
        .and_then(Value::as_f64)
        .map_or_else(String::new, |held| format!("{held:.0} ms"))
}
