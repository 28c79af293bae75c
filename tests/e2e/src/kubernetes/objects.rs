//! Objects of any kind, as JSON.

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, PostParams},
};
use serde_json::Value;

/// The API of an object's kind, in its own namespace if it has one.
pub fn api_of(client: &Client, object: &Value) -> Api<DynamicObject> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let version = text(&object["apiVersion"]);
    let (group, version) = version.split_once('/').unwrap_or(("", &version));
    let kind = GroupVersionKind::gvk(group, version, &text(&object["kind"]));
    let resource = ApiResource::from_gvk(&kind);
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

/// Creates an object.
///
/// # Panics
///
/// The API refuses it.
pub async fn create(client: &Client, object: &Value) {
    let what = format!("{} {}", object["kind"], object["metadata"]["name"]);
    let typed: DynamicObject =
        serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{what}: {error}"));
    let created = api_of(client, object).create(&PostParams::default(), &typed).await;
    created.unwrap_or_else(|error| panic!("creating {what}: {error}"));
}
