//! Coexistence with other writers of the same objects: always allowed, always noticed.

use std::time::Duration;

use e2e::{
    kubernetes::{Setting, Shop, Workload, needs_devcluster, run},
    until,
    wait::pause,
};
use serde_json::{Value, json};

/// Long enough for several decisions and for whatever a change would wake.
const A_WHILE: Duration = Duration::from_secs(2);

async fn sleeping(shop: &Shop, name: &str) -> Workload {
    let workload = Workload::new(shop, name);
    shop.deploy(&workload).await;
    shop.asleep(&workload).await;
    workload
}

async fn sleeps_on(shop: &Shop, workload: &Workload, starts: usize, after: &str) {
    pause(A_WHILE).await;
    assert_eq!(workload.read().starts.len(), starts, "{after} woke it");
    assert_eq!(shop.object(workload).await.data["spec"]["replicas"], 0, "{after} woke it");
    assert_eq!(shop.state(&workload.name), "asleep", "after {after}");
}

#[test]
fn a_new_image_and_a_manifest_without_replicas_wake_nothing() {
    run(async {
        let shop = Shop::open().await;
        let web = Workload::new(&shop, "web").replicas(2);
        shop.deploy(&web).await;
        shop.asleep(&web).await;
        let starts = web.read().starts.len();
        let old = shop.object(&web).await.metadata.annotations.unwrap_or_default();
        // Also where the cluster has it by one name only, this is another template.
        let image = json!({"spec": {"template": {
            "metadata": {"annotations": {"version": "2"}},
            "spec": {"containers": [web.container(&shop.names().service_v2)]},
        }}});
        shop.patch(&web, image).await;
        sleeps_on(&shop, &web, starts, "a new image").await;
        let mut manifest = web.object();
        manifest["spec"].as_object_mut().unwrap().remove("replicas");
        manifest["metadata"]["labels"] = json!({"by": "gitops"});
        shop.patch(&web, manifest).await;
        sleeps_on(&shop, &web, starts, "a manifest without replicas").await;
        shop.served(&web, "one").await;
        let replicas = &shop.object(&web).await.data["spec"]["replicas"];
        assert_eq!(*replicas, 2, "as many as it had, whatever changed while it slept");

        // As `kubectl rollout undo` does: the annotations it had before are back, with a record from when it slept.
        shop.patch(&web, json!({"metadata": {"annotations": old}})).await;
        shop.served(&web, "two").await;
        // Until it is noticed, the old record says that it sleeps.
        until("the old record to be written over", || async {
            let now = shop.object(&web).await.metadata.annotations.unwrap_or_default();
            let record = "scaler.dev/state";
            if now.get(record) == old.get(record) { Err(format!("{now:?}")) } else { Ok(()) }
        })
        .await;
        shop.asleep(&web).await;
        shop.served(&web, "three").await;
        assert!(web.read().requests.values().all(|&times| times == 1));
    });
}

#[test]
fn a_manually_scaled_workload_is_awake_without_a_request_and_sleeps_again() {
    run(async {
        let shop = Shop::open().await;
        let web = sleeping(&shop, "web").await;
        shop.patch(&web, json!({"spec": {"replicas": 2}})).await;
        shop.state_is(&web, "active").await;
        until("both pods to start", || async {
            let starts = web.read().starts.len();
            if starts == 3 { Ok(()) } else { Err(format!("{starts} starts")) }
        })
        .await;
        shop.asleep(&web).await;
        shop.served(&web, "one").await;
        assert_eq!(shop.object(&web).await.data["spec"]["replicas"], 2, "as many as it had");
        // And manually scaled down: the next request brings it back.
        shop.patch(&web, json!({"spec": {"replicas": 0}})).await;
        shop.served(&web, "two").await;
        assert!(web.read().requests.values().all(|&times| times == 1));
    });
}

#[test]
fn an_object_that_is_created_again_is_another_one() {
    run(async {
        let shop = Shop::open().await;
        let web = sleeping(&shop, "web").await;
        shop.delete(&web).await;
        shop.create(&web.object()).await;
        shop.listed(&web).await;
        shop.served(&web, "one").await;
        shop.asleep(&web).await;
        shop.served(&web, "two").await;
        assert!(web.read().requests.values().all(|&times| times == 1));
    });
}

/// KEDA's kind, as far as it is read.
fn scaled_objects() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "scaledobjects.keda.sh"},
        "spec": {
            "group": "keda.sh", "scope": "Namespaced",
            "names": {"plural": "scaledobjects", "singular": "scaledobject", "kind": "ScaledObject"},
            "versions": [{
                "name": "v1alpha1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
            }],
        },
    })
}

#[test]
fn what_keda_scales_to_zero_is_left_alone_and_beside_an_hpa_it_sleeps() {
    if needs_devcluster("makes a kind of KEDA's, which all of a cluster would see") {
        return;
    }
    run(async {
        let shop = Shop::open_with(Setting { before: vec![scaled_objects()], ..Setting::default() }).await;
        let (kedas, hpas) = (Workload::new(&shop, "kedas"), Workload::new(&shop, "hpas"));
        let targets = [("in-flight-per-replica", "1"), ("min-replicas", "2"), ("max-replicas", "3")];
        let both = Workload::new(&shop, "both").annotation("scale-to-zero", "1h");
        let both = targets.iter().fold(both, |both, (name, value)| both.annotation(name, value));
        let scaled_object = json!({
            "apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject",
            "metadata": {"name": "kedas", "namespace": "shop"},
            "spec": {"scaleTargetRef": {"name": "kedas"}},
        });
        shop.create(&scaled_object).await;
        for name in ["hpas", "both"] {
            shop.create(&json!({
                "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
                "metadata": {"name": name, "namespace": "shop"},
                "spec": {
                    "minReplicas": 1, "maxReplicas": 3,
                    "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
                },
            }))
            .await;
        }
        shop.deploy(&kedas).await;
        shop.deploy(&hpas).await;
        shop.deploy(&both).await;
        shop.asleep(&hpas).await;
        // It would have two by its own targets.
        shop.event(&both, "ConflictingAutoscaler: ").await;
        assert_eq!(shop.object(&both).await.data["spec"]["replicas"], 1, "what the other one says");
        shop.event(&kedas, "ScaledObject").await;
        pause(A_WHILE).await;
        assert_eq!(shop.object(&kedas).await.data["spec"]["replicas"], 1, "it was put to sleep all the same");
        shop.served(&kedas, "one").await;
        // Paused, it is ours.
        shop.merge(
            &scaled_object,
            json!({"metadata": {"annotations": {"autoscaling.keda.sh/paused": "true"}}}),
        )
        .await;
        shop.asleep(&kedas).await;
    });
}
