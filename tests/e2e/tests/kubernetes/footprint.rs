//! What a large cluster costs: `cargo xtask bench --only cluster`. Nothing runs in the workloads: no controller is there, and the daemons
//! are pods of their own. Each measurement prints one line of JSON.

mod cluster;

use std::time::Duration;

use cluster::{BareCluster, memory_mib};
use devcluster::Filter;
use e2e::{
    kubernetes::{needs_devcluster, run, shop},
    wait::pause,
};
use futures_util::StreamExt as _;
use k8s_openapi::api::{
    core::v1::{ConfigMap, Namespace, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams},
    runtime::{WatchStreamExt as _, reflector, watcher},
};
use serde_json::{Value, json};
use tokio::time::Instant;

/// How many Deployments the daemons look after.
const DEPLOYMENTS: usize = 10_000;
/// For how long it is watched, in cycles of a second each.
const CYCLES: f64 = 20.0;
/// The same with intercepted Services.
const INTERCEPTED_CYCLES: f64 = 10.0;
/// How many DLXs intercept them.
const DLXS: usize = 3;
/// Our slices.
const OURS: &str = "endpointslice.kubernetes.io/managed-by=scaler.dev";
/// How long anything of a measurement may take.
const WAIT_TIMEOUT: Duration = Duration::from_secs(900);

/// The autoscaler's CPU and calls of the API per cycle, with 10,000 Deployments that are awake.
#[test]
#[ignore = "a measurement"]
fn ten_thousand_deployments() {
    if needs_devcluster("counts what one user asks of the API, and the CPU of a pod's process") {
        return;
    }
    run(async {
        let bare = BareCluster::start().await;
        let deployments = (0..DEPLOYMENTS).map(|number| {
            let name = format!("web-{number}");
            let mut deployment = deployment(&name);
            deployment["metadata"]["annotations"]["scaler.dev/hosts"] = json!(format!("{name}.shop.svc"));
            deployment
        });
        bare.create_all(deployments).await;
        for part in [shop::Part::Autoscaler, shop::Part::Dlx] {
            bare.daemon(part, &part.deployment()).await;
        }
        let autoscaler = bare.autoscaler(DEPLOYMENTS).await;
        let (cycles, cost) = bare.cycles(&autoscaler, CYCLES).await;
        let user = shop::Part::Autoscaler.user();
        let leases = bare.cluster.requests().of(&Filter::any().user(&user).resource("leases"));
        println!(
            "{}",
            json!({
                "deployments": DEPLOYMENTS, "cycles": cycles, "cpu_ms_per_cycle": cost.cpu_ms() / cycles,
                "api_calls_per_cycle": cost.all() as f64 / cycles, "calls_for_leases_in_all": leases,
            })
        );
    });
}

/// What it costs to intercept as many Services as there are ports, or as `SCALER_SERVICES` says, to keep them so, and to replace a DLX
/// of three. All of them are opted in at once, by their namespace.
#[test]
#[ignore = "a measurement"]
fn two_thousand_intercepted_services() {
    if needs_devcluster("counts what one user asks of the API, and the CPU and the memory of pods' processes")
    {
        return;
    }
    run(async {
        let services = std::env::var("SCALER_SERVICES").ok().and_then(|count| count.parse().ok());
        let services: usize = services.unwrap_or(2_000);
        let bare = BareCluster::start().await;
        let client = &bare.client;
        bare.create_all((0..services).map(|number| service(&format!("web-{number}")))).await;
        bare.create_all((0..services).map(|number| deployment(&format!("web-{number}")))).await;
        for number in 0..DLXS {
            bare.daemon(shop::Part::Dlx, &format!("scaler-dlx-{number}")).await;
        }
        bare.daemon(shop::Part::Autoscaler, "scaler-autoscaler").await;
        let autoscaler = bare.autoscaler(services).await;
        bare.ready(&(0..DLXS).map(|number| format!("scaler-dlx-{number}")).collect::<Vec<_>>()).await;
        let dlx = bare.node.process("shop", "scaler-dlx-1").expect("a DLX's process");
        let memory = || [memory_mib(autoscaler.process), memory_mib(dlx)];
        let before = memory();

        let all = follow(client, ApiResource::erase::<Service>(&()), "");
        let slices = follow(client, ApiResource::erase::<EndpointSlice>(&()), OURS);
        let began = bare.begin(&autoscaler);
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let intercept_patch = json!({"metadata": {"annotations": {"scaler.dev/intercept": "always"}}});
        namespaces
            .patch("shop", &PatchParams::default(), &Patch::Merge(&intercept_patch))
            .await
            .expect("opting in");
        let intercepted = || count(&all, is_intercepted);
        within("all Services to be intercepted", || {
            (intercepted() == services).then_some(()).ok_or_else(&intercepted)
        })
        .await;
        let intercepting = bare.since(&autoscaler, &began);
        within("every slice to name every DLX", || {
            let named = count(&slices, |slice| names(slice).len() == DLXS);
            (named == services).then_some(()).ok_or(named)
        })
        .await;
        let registry = registry(client).await;
        bare.calm(&autoscaler).await;
        let after = memory();
        let (cycles, cycle) = bare.cycles(&autoscaler, INTERCEPTED_CYCLES).await;

        let began = bare.begin(&autoscaler);
        let pods: Api<Pod> = Api::namespaced(client.clone(), "shop");
        pods.delete("scaler-dlx-0", &DeleteParams::default()).await.expect("deleting a DLX's pod");
        bare.daemon(shop::Part::Dlx, "scaler-dlx-new").await;
        let name = |slice: &DynamicObject, dlx: &str| names(slice).iter().any(|name| name.starts_with(dlx));
        let old = || count(&slices, |slice| name(slice, "scaler-dlx-0"));
        let gone = async {
            within("no slice to name the old DLX", || (old() == 0).then_some(()).ok_or_else(old)).await;
            began.at.elapsed().as_secs_f64()
        };
        let new = || count(&slices, |slice| name(slice, "scaler-dlx-new"));
        let named = async {
            within("all slices to name the new DLX", || (new() == services).then_some(()).ok_or_else(new))
                .await;
            began.at.elapsed().as_secs_f64()
        };
        let (gone, named) = tokio::join!(gone, named);
        let replacing = bare.since(&autoscaler, &began);
        assert_eq!((intercepted(), old()), (services, 0), "all are intercepted, by no DLX that is gone");
        println!(
            "{}",
            json!({
                "services": services, "dlxs": DLXS,
                "intercepting": {"seconds": intercepting.seconds(), "cpu_ms": intercepting.cpu_ms(), "api_calls": intercepting.calls},
                "cycle": {
                    "cycles": cycles, "cpu_ms": cycle.cpu_ms() / cycles,
                    "api_calls": cycle.all() as f64 / cycles,
                },
                "memory_mib": {
                    "autoscaler_before": before[0], "autoscaler_after": after[0],
                    "dlx_before": before[1], "dlx_after": after[1],
                },
                "registry_bytes": registry,
                "replaced_dlx": {
                    "seconds": named, "seconds_until_the_old_is_gone": gone,
                    "cpu_ms": replacing.cpu_ms(), "api_calls": replacing.calls,
                },
            })
        );
    });
}

/// What is there of a kind, kept up to date.
fn follow(client: &Client, resource: ApiResource, labels: &str) -> reflector::Store<DynamicObject> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), "shop", &resource);
    let writer = reflector::store::Writer::new(resource);
    let store = writer.as_reader();
    let watch = watcher(api, watcher::Config::default().labels(labels));
    tokio::spawn(reflector(writer, watch).default_backoff().for_each(|_| std::future::ready(())));
    store
}

fn count(store: &reflector::Store<DynamicObject>, wanted: impl Fn(&DynamicObject) -> bool) -> usize {
    store.state().iter().filter(|object| wanted(object)).count()
}

/// Its key is written last.
fn is_intercepted(service: &DynamicObject) -> bool {
    !service.data["spec"]["selector"]["scaler.dev/intercepted"].is_null()
}

/// The DLXs that a slice of ours names.
fn names(slice: &DynamicObject) -> Vec<&str> {
    let names = slice.annotations().get("scaler.dev/dlxs").map(String::as_str).unwrap_or_default();
    names.split(',').filter(|name| !name.is_empty()).collect()
}

/// Looks until `look` finds something; what it says otherwise is how far it is.
async fn within(what: &str, look: impl Fn() -> Result<(), usize>) {
    let began = Instant::now();
    while let Err(far) = look() {
        assert!(began.elapsed() < WAIT_TIMEOUT, "waited {WAIT_TIMEOUT:?} for {what}: {far}");
        pause(Duration::from_millis(50)).await;
    }
}

/// How large the registry of ports is.
async fn registry(client: &Client) -> usize {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "shop");
    let map = maps.get("scaler-service-ports").await.expect("the registry");
    serde_json::to_vec(&map).expect("a ConfigMap").len()
}

fn deployment(name: &str) -> Value {
    let labels = json!({"app": name});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": "shop", "annotations": {"scaler.dev/scale-to-zero": "10m"}},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": "devcluster/service"}]}},
        },
    })
}

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    })
}
