//! Every DLX is killed while many workloads sleep: all of them are woken, a few at a time. `SCALER_HERD` says how many.

use std::{collections::BTreeSet, time::Duration};

use devcluster::node::NodeFaults;
use e2e::{
    kubernetes::{Setting, Shop, Workload, needs_devcluster, run, shop::Part},
    wait::wait_timeout,
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Service};
use kube::{
    Api, ResourceExt as _,
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::json;
use tokio::time::{Instant, timeout};

/// `maxConcurrentWakes`. No request waits for these wakes, so they have half of it.
const WAKES: usize = 16;
/// How long a container takes from its image to its process: longer than the wakes are spread over, so that they overlap.
const START: Duration = Duration::from_secs(1);
/// How long each of them may take, with what is done before. Far above what is needed: the machine may be busy.
const EACH: Duration = Duration::from_secs(1);

#[test]
fn without_a_dlx_a_herd_is_woken_a_few_at_a_time() {
    if needs_devcluster("kills processes") {
        return;
    }
    let herd = std::env::var("SCALER_HERD").ok().and_then(|herd| herd.parse().ok()).unwrap_or(60);
    run(async move {
        let mut setting = Setting::default().with(&format!("maxConcurrentWakes: {WAKES}\n"));
        setting.pods += herd;
        setting.flags = vec![
            format!("--service-ports=20000-{}", 20_000 + herd),
            "--endpoint-propagation-delay=1s".to_owned(),
        ];
        setting.autoscaler_flags.push("--dlx-unavailable-timeout=2s".to_owned());
        let shop = Shop::open_with(setting).await;
        let limit = wait_timeout() + EACH * u32::try_from(herd).expect("a number of workloads");
        let began = Instant::now();
        let created = stream::iter(0..herd).for_each_concurrent(16, |number| {
            let workload = sleeper(&shop, &format!("web-{number:04}"));
            let shop = &shop;
            async move {
                shop.create(&workload.service()).await;
                shop.create(&workload.object()).await;
            }
        });
        created.await;
        timeout(limit, all_intercepted(&shop, herd)).await.expect("every Service intercepted");
        println!("{herd} Services are intercepted after {:?}", began.elapsed());

        shop.node_faults(NodeFaults { start: START, ..NodeFaults::default() });
        let starting = timeout(limit, most_starting(&shop, herd));
        let killed = async {
            for pod in shop.pods(Part::Dlx).await {
                shop.kill(&pod.name_any());
            }
            shop.scale(Part::Dlx, 0).await;
            Instant::now()
        };
        let (most, killed) = tokio::join!(starting, killed);
        let most = most.unwrap_or_else(|_| panic!("not all came up\n{}", shop.logs("autoscaler", 40)));
        println!("{herd} workloads are up {:?} after the DLXs were gone", killed.elapsed());
        assert_eq!(most, WAKES / 2, "workloads that were starting at once");
        shop.event(&sleeper(&shop, "web-0000"), "DLXUnavailable").await;
    });
}

/// A workload without replicas that costs next to nothing when it runs.
fn sleeper(shop: &Shop, name: &str) -> Workload {
    let program = json!({
        "command": ["sleep", "infinity"], "ports": [{"name": "http", "containerPort": 8080}],
    });
    Workload::new(shop, name)
        .annotation("scale-to-zero", "1h")
        .annotation("intercept", "always")
        .replicas(0)
        .program(program)
}

/// Waits until so many Services are intercepted.
async fn all_intercepted(shop: &Shop, count: usize) {
    let services: Api<Service> = Api::namespaced(shop.client.clone(), &shop.names().namespace);
    let mut changes =
        watcher(services, watcher::Config::default()).default_backoff().applied_objects().boxed();
    let mut intercepted = BTreeSet::new();
    while intercepted.len() < count {
        let service = changes.try_next().await.expect("watching Services").expect("a watch that goes on");
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        if selector.is_some_and(|selector| selector.contains_key("scaler.dev/intercepted")) {
            intercepted.insert(service.name_any());
        }
    }
}

/// Waits until so many workloads are up; how many were starting at once at most, in the order in which the API changed.
async fn most_starting(shop: &Shop, count: usize) -> usize {
    let deployments: Api<Deployment> = Api::namespaced(shop.client.clone(), &shop.names().namespace);
    let mut changes =
        watcher(deployments, watcher::Config::default()).default_backoff().applied_objects().boxed();
    let (mut starting, mut up, mut most) = (BTreeSet::new(), BTreeSet::new(), 0);
    while up.len() < count {
        let deployment =
            changes.try_next().await.expect("watching Deployments").expect("a watch that goes on");
        let name = deployment.name_any();
        let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let ready = deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or_default();
        starting.remove(&name);
        if !name.starts_with("web-") || wanted == 0 {
            continue;
        }
        if ready > 0 {
            up.insert(name);
        } else {
            starting.insert(name);
            most = most.max(starting.len());
        }
    }
    most
}
