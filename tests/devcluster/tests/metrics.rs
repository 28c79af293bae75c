//! The custom metrics API, which has no values but those a test sets.

use devcluster::{Cluster, Options, User};
use http::Request;
use kube::{Client, client::Body};
use serde_json::{Value, json};

async fn get(client: &Client, path: &str) -> (u16, Value) {
    let answer = client.send(Request::builder().uri(path).body(Body::empty()).unwrap()).await.unwrap();
    let status = answer.status().as_u16();
    let text = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
    (status, serde_json::from_slice(&text).unwrap_or(Value::Null))
}

#[tokio::test]
async fn values_are_answered_in_both_versions() {
    let cluster = Cluster::start(Options { custom_metrics: true, ..Options::default() }).unwrap();
    let client = cluster.client().unwrap();
    let metrics = cluster.custom_metrics();
    for (name, value) in [("web", "1500m"), ("db", "0")] {
        metrics.set("default", "deployments.apps", name, "requests_per_5m", value, Some(300));
    }
    let path = |version: &str, rest: &str| {
        format!("/apis/custom.metrics.k8s.io/{version}/namespaces/default/{rest}")
    };
    let (status, list) = get(&client, &path("v1beta2", "deployments.apps/*/requests_per_5m")).await;
    assert_eq!((status, &list["kind"]), (200, &json!("MetricValueList")));
    let items = list["items"].as_array().unwrap();
    assert_eq!(items.len(), 2);
    assert_eq!(items[1]["describedObject"]["name"], "web");
    assert_eq!(items[1]["describedObject"]["kind"], "Deployment");
    assert_eq!(items[1]["describedObject"]["apiVersion"], "apps/v1");
    assert_eq!(items[1]["value"], "1500m");
    assert_eq!(items[1]["metric"]["name"], "requests_per_5m");
    assert_eq!(items[1]["windowSeconds"], 300);
    let (_, list) = get(&client, &path("v1beta1", "deployments.apps/web/requests_per_5m")).await;
    assert_eq!(list["items"][0]["metricName"], "requests_per_5m");
    assert_eq!(list["items"][0]["window"], 300);
    for none in [
        "deployments.apps/*/other",
        "deployments.apps/none/requests_per_5m",
        "statefulsets.apps/*/requests_per_5m",
    ] {
        let (status, refused) = get(&client, &path("v1beta2", none)).await;
        assert_eq!((status, &refused["reason"]), (404, &json!("NotFound")), "{none}");
    }
    // Only objects that there are have labels.
    assert_eq!(
        get(&client, &path("v1beta2", "deployments.apps/*/requests_per_5m?labelSelector=app")).await.0,
        404
    );
    metrics.remove("default", "deployments.apps", "web", "requests_per_5m");
    let (_, list) = get(&client, &path("v1beta2", "deployments.apps/*/requests_per_5m")).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    let (_, groups) = get(&client, "/apis").await;
    assert!(groups.to_string().contains("custom.metrics.k8s.io/v1beta1"), "{groups}");
    // It is an API like any other for who may not.
    let nobody = cluster.client_of(&User::service_account("default", "nobody")).unwrap();
    let (status, refused) = get(&nobody, &path("v1beta2", "deployments.apps/*/requests_per_5m")).await;
    assert_eq!(status, 403);
    let given =
        "cannot get resource \"deployments.apps/requests_per_5m\" in API group \"custom.metrics.k8s.io\"";
    assert!(refused["message"].as_str().unwrap().contains(given), "{refused}");
}

#[tokio::test]
async fn a_cluster_without_it_does_not_list_it() {
    let cluster = Cluster::start(Options::default()).unwrap();
    let client = cluster.client().unwrap();
    assert!(!get(&client, "/apis").await.1.to_string().contains("custom.metrics"));
    assert_eq!(get(&client, "/apis/custom.metrics.k8s.io/v1beta2").await.0, 404);
}
