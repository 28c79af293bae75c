//! A namespace that is restored from a backup: objects of the same names with other uids, as they were while the workload slept.

use std::time::Instant;

use e2e::{
    kubernetes::{Setting, Shop, Workload, WorkloadView, run},
    load::{self, get},
    until,
};
use scaler_types::{Backend, Phase};
use serde_json::{Value, json};

use crate::restore::{before, intercept_patch};

/// An address that nothing has.
const FOREIGN: &str = "10.9.9.9";

/// The objects as a backup tool keeps them: without what the API server sets, but with the uids in owner references as they were.
fn backup(seen: &WorkloadView) -> Vec<Value> {
    let slice = seen.ours().next().expect("a slice of ours").clone();
    let mut all = vec![seen.object.clone(), seen.service.clone(), slice];
    let kinds = [("apps/v1", "Deployment"), ("v1", "Service"), ("discovery.k8s.io/v1", "EndpointSlice")];
    for (object, (version, kind)) in all.iter_mut().zip(kinds) {
        // What a list holds does not say its kind.
        object["apiVersion"] = version.into();
        object["kind"] = kind.into();
        object.as_object_mut().expect("an object").remove("status");
        let metadata = object["metadata"].as_object_mut().expect("its metadata");
        for field in ["uid", "resourceVersion", "generation", "creationTimestamp", "managedFields"] {
            metadata.remove(field);
        }
        if object["kind"] == "Service" {
            let spec = object["spec"].as_object_mut().expect("its spec");
            spec.retain(|field, _| field != "clusterIP" && field != "clusterIPs");
        }
        for endpoint in object["endpoints"].as_array_mut().into_iter().flatten() {
            endpoint["addresses"] = json!([FOREIGN]);
        }
    }
    // An address is one endpoint's.
    all[2]["endpoints"].as_array_mut().expect("its endpoints").truncate(1);
    all
}

/// Deletes what was kept, and creates it anew.
async fn restore(shop: &Shop, web: &Workload, kept: &[Value]) {
    shop.delete(web).await;
    shop.remove(&web.service()).await;
    // The slices go with their Service.
    shop.until_seen(web, "nothing to be left", |seen| seen.service.is_null() && seen.slices.is_empty()).await;
    // The slice before its Service: as soon as that is there the leader writes slices of its own.
    for object in [&kept[0], &kept[2], &kept[1]] {
        shop.create(object).await;
    }
}

fn has_foreign_owner(seen: &WorkloadView) -> bool {
    seen.ours().any(|slice| slice.to_string().contains(FOREIGN))
}

#[test]
fn a_sleeping_workload_from_a_backup_answers_and_its_service_is_restored() {
    run(async {
        let shop = Shop::open_with(Setting::intercepting()).await;
        let (web, _) = before(&shop, "web").await;
        shop.patch(&web, intercept_patch(Some("always"))).await;
        shop.asleep(&web).await;
        let seen = shop.until_seen(&web, "its sleep", |seen| seen.state() == Some(Phase::Asleep)).await;
        restore(&shop, &web, &backup(&seen)).await;
        let began = Instant::now();
        let are_repaired = |seen: &WorkloadView| seen.backend() == Backend::Dlx && !has_foreign_owner(seen);
        let repaired = shop.until_seen(&web, "its slices to name the DLXs", are_repaired).await;
        println!("repaired after {:?}", began.elapsed());
        let uid = &repaired.service["metadata"]["uid"];
        assert_ne!(*uid, seen.service["metadata"]["uid"]);
        for slice in repaired.ours() {
            assert_eq!(slice["metadata"]["ownerReferences"][0]["uid"], *uid);
        }

        shop.until_intercepted(&web).await;
        let address = shop.service(&web, 80).await[0];
        // Also its new port is to be known to the DLXs.
        until("an answer", || async {
            let answer = load::once(address, &get(&web.host(), "/", "one")).await;
            let answer = answer.map_err(|lost| lost.to_string())?;
            let is_its_own = (answer.status, answer.header("x-request-id")) == (200, Some("one"));
            if is_its_own { Ok(()) } else { Err(answer.text()) }
        })
        .await;
        println!("answered after {:?}", began.elapsed());
        // Its record's two replicas are not believed.
        assert_eq!(shop.object(&web).await.data["spec"]["replicas"], 1);

        shop.patch(&web, json!({"metadata": {"annotations": {"scaler.dev/paused": "true"}}})).await;
        shop.patch(&web, intercept_patch(None)).await;
        let free = shop.until_restored(&web).await;
        assert!(!free.has_selector_key() && free.ours().count() == 0);
        shop.served_at(address, &web, "two").await;
    });
}
