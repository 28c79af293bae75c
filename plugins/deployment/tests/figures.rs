//! What many workloads cost: `cargo test --release -p resource-scaler-deployment --test figures -- --ignored --nocapture`.

mod common;

use std::time::{Duration, Instant};

use common::*;
use futures_util::{StreamExt as _, stream};
use scaler_types::{Backend, InterceptionRequest, ResourceScaler as _, Role, ServicePorts};
use serde_json::json;

/// How many, unless `SCALER_TEST_COUNT` says.
const COUNT: usize = 10_000;

const LONG: Duration = Duration::from_secs(600);

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
    let calls = scene.asked("list", "deployments") + scene.asked("get", "deployments");
    assert_eq!(calls, 0, "a listing makes no calls");
    let cursor = all_cursor(&dlx).await;
    let began = Instant::now();
    for number in 0..100 {
        scene.runs(&format!("web-{number}"), "10.244.0.1", true).await;
    }
    let mut seen = 0;
    let mut at = cursor;
    while seen < 100 {
        let changes = dlx.changes(at).await.unwrap();
        seen += changes.resources.len();
        at = changes.cursor;
    }
    eprintln!(
        "{count} workloads: started in {started:.2?}, first list {first:.2?}, a look {look:.2?}, 100 pods' changes {:.2?}",
        began.elapsed()
    );
}

/// As many intercepted Services as a registry is made for, unless `SCALER_TEST_COUNT` says.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; prints figures"]
async fn many_intercepted_services() {
    let count = std::env::var("SCALER_TEST_COUNT").map_or(2_000, |count| count.parse().unwrap());
    let scene = Scene::new().await;
    for number in 0..count {
        let name = format!("web-{number}");
        let mut deployment = deployment(&name, 1);
        deployment["metadata"]["annotations"]["scaler.dev/intercept"] = json!("always");
        scene.create("Deployment", deployment).await;
        scene.create("Service", service(&name, &name)).await;
    }
    let leader = scene.leading(Role::Autoscaler, ServicePorts { first: 20000, last: 21999 }).await;
    let three = dlxs(&["a", "b", "c"]);
    let to_all = |backend| {
        let (leader, three) = (leader.clone(), three.clone());
        async move {
            let began = Instant::now();
            let intercepted = (0..count).map(|number| {
                let (leader, three) = (leader.clone(), three.clone());
                async move {
                    leader
                        .set_backend(&InterceptionRequest {
                            deadline: LONG,
                            ..to(&format!("web-{number}"), backend, three)
                        })
                        .await
                }
            });
            let ended: Vec<_> = stream::iter(intercepted).buffer_unordered(16).collect().await;
            assert!(ended.iter().all(Result::is_ok), "{:?}", ended.iter().find(|one| one.is_err()));
            began.elapsed()
        }
    };
    let intercepted = to_all(Backend::Dlx).await;
    let began = Instant::now();
    leader.sync_dlxs(&dlxs(&["a", "b", "d"])).await.unwrap();
    let tended = began.elapsed();
    let began = Instant::now();
    leader.sync_dlxs(&dlxs(&["a", "b", "d"])).await.unwrap();
    let looked = began.elapsed();
    let both = to_all(Backend::Both).await;
    let own = to_all(Backend::Workload).await;
    eprintln!(
        "{count} Services: intercepted in {intercepted:.2?}, another DLX in all slices {tended:.2?}, nothing to do {looked:.2?}, to both \
         {both:.2?}, restored {own:.2?}"
    );
}

async fn all_cursor(plugin: &deployment::DeploymentScaler) -> u64 {
    plugin.changes(0).await.unwrap().cursor
}
