//! What many workloads cost: `cargo test --release -p resource-scaler-deployment --test figures -- --ignored --nocapture`.

mod common;

use std::time::Instant;

use common::*;
use scaler_types::ResourceScaler as _;
use serde_json::json;

/// How many, unless `SCALER_TEST_COUNT` says.
const COUNT: usize = 10_000;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; prints figures"]
async fn many_workloads() {
    let count = std::env::var("SCALER_TEST_COUNT").map_or(COUNT, |count| count.parse().unwrap());
    let scene = Scene::new().await;
    for number in 0..count {
        let name = format!("web-{number}");
        let mut deployment = deployment(&name, 1);
        deployment["metadata"]["annotations"]["scaler.dev/hosts"] = json!(format!("{name}.example.com"));
        scene.create("Deployment", deployment).await;
        scene.create("Service", service(&name, &name)).await;
        scene.pod(&name, &name).await;
    }
    let (dlx, autoscaler);
    let began = Instant::now();
    dlx = scene.dlx().await;
    let started = began.elapsed();
    autoscaler = scene.autoscaler().await;
    let began = Instant::now();
    assert_eq!(all(&dlx).await.len(), count);
    let first = began.elapsed();
    scene.cluster.requests().reset();
    let began = Instant::now();
    for _ in 0..10 {
        assert_eq!(autoscaler.get_resources().await.unwrap().len(), count);
    }
    let look = began.elapsed() / 10;
    let asked = scene.asked("list", "deployments") + scene.asked("get", "deployments");
    assert_eq!(asked, 0, "a look asks nothing");
    let cursor = all_cursor(&dlx).await;
    let began = Instant::now();
    for number in 0..100 {
        scene.runs(&format!("web-{number}"), "10.244.0.1", true).await;
    }
    let mut told = 0;
    let mut at = cursor;
    while told < 100 {
        let changes = dlx.changes(at).await.unwrap();
        told += changes.resources.len();
        at = changes.cursor;
    }
    eprintln!(
        "{count} workloads: started in {started:.2?}, first list {first:.2?}, a look {look:.2?}, 100 pods' changes {:.2?}",
        began.elapsed()
    );
}

async fn all_cursor(plugin: &deployment::DeploymentScaler) -> u64 {
    plugin.changes(0).await.unwrap().cursor
}
