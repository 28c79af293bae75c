//! `helm uninstall`: the Job of the chart's hook stops the autoscaler and restores everything, with the rights that the chart gives
//! it and no more.

use std::{path::PathBuf, time::Duration};

use e2e::kubernetes::{
    Setting, Shop, Snapshot, Workload,
    hook::{Ended, Hook},
    needs_devcluster, run,
    shop::Part,
};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::ConfigMap};
use kube::Api;
use scaler_types::Backend;
use serde_json::json;

use crate::restore::{begin, intercept_patch};

/// Far more than it takes.
const LONG: Duration = Duration::from_secs(50);
/// Enough for what can be restored, and soon over for what cannot.
const SHORT: Duration = Duration::from_secs(15);

/// Two workloads behind intercepted Services, of which the first sleeps; and a snapshot from before they were opted in.
async fn intercepted_shop() -> (Shop, [Workload; 2], Snapshot) {
    let shop = Shop::open_with(Setting::intercepting()).await;
    let may_start = may_start(&shop);
    std::fs::write(&may_start, "").expect("writing the file");
    let asleep = Workload::new(&shop, "asleep").arguments(&["--start-after", &may_start.to_string_lossy()]);
    let (asleep, _) = begin(&shop, asleep).await;
    let (awake, before) = begin(&shop, Workload::new(&shop, "awake")).await;
    shop.patch(&asleep, intercept_patch(Some("always"))).await;
    let annotations = json!({"scaler.dev/scale-to-zero": "1h", "scaler.dev/intercept": "always"});
    shop.patch(&awake, json!({"metadata": {"annotations": annotations}})).await;
    shop.until_intercepted(&awake).await;
    shop.until_intercepted(&asleep).await;
    shop.asleep(&asleep).await;
    (shop, [asleep, awake], before)
}

/// Without this file the one that sleeps does not come up.
fn may_start(shop: &Shop) -> PathBuf {
    shop.folder().join("may-start")
}

/// How many Services are counted as intercepted: above 0 the admission policy denies that Scaler is deleted.
async fn intercepted(shop: &Shop) -> String {
    let maps: Api<ConfigMap> = Api::namespaced(shop.client.clone(), &shop.names().namespace);
    let map = maps.get("scaler-service-ports").await.expect("the ConfigMap of ports");
    map.data.expect("its data")["intercepted"].clone()
}

/// Nothing was asked for that it may not do, and nothing of it is left but that the autoscaler is stopped.
async fn given_back(shop: &Shop, webs: &[Workload; 2], before: &Snapshot, ended: &Ended) {
    assert_eq!(ended.status, 0, "{}", ended.said);
    assert_eq!(intercepted(shop).await, "0");
    assert!(shop.pods(Part::Autoscaler).await.is_empty(), "{}", ended.said);
    for web in webs {
        shop.until_restored(web).await;
        let address = shop.service(web, 80).await[0];
        shop.served_at(address, web, "one").await;
        shop.patch(web, intercept_patch(None)).await;
    }
    let mut differences = before.differences(&shop.snapshot().await);
    // Their users' annotations were the only ones.
    let emptied =
        webs.each_ref().map(|web| format!("Deployment {} /metadata /annotations: null -> {{}}", web.name));
    differences.retain(|difference| !emptied.contains(difference));
    assert_eq!(differences, ["Deployment scaler-autoscaler /spec /replicas: 2 -> 0"]);
    let leases: Api<Lease> = Api::namespaced(shop.client.clone(), &shop.names().namespace);
    assert!(
        leases.get_opt("scaler-autoscaler").await.unwrap().is_none(),
        "there is to be no leader any more"
    );
    let forbidden = shop.cluster().requests().forbidden();
    let its: Vec<_> = forbidden.iter().filter(|(asked, _)| asked.user == Part::Autoscaler.user()).collect();
    assert!(
        its.iter().all(|(asked, _)| asked.resource == "httproutes" || asked.resource == "scaledobjects"),
        "{its:#?}"
    );
}

#[test]
fn the_hook_stops_the_autoscaler_and_restores_everything() {
    if needs_devcluster("has nodes that lag") {
        return;
    }
    run(async {
        let (shop, webs, before) = intercepted_shop().await;
        assert_eq!(intercepted(&shop).await, "2");
        let hook = Hook::render(&shop, LONG);
        hook.create(&shop).await;
        let ended = hook.run(&shop, 1).await;
        for web in &webs {
            assert!(ended.said.contains(&format!("shop/{}: restored\n", web.name)), "{}", ended.said);
        }
        assert!(ended.said.contains("2 restored, 0 failed\n"), "{}", ended.said);
        given_back(&shop, &webs, &before, &ended).await;
    });
}

/// A sleeping workload that does not come up stays intercepted: the hook fails and helm uninstalls nothing. Another attempt
/// continues from there.
#[test]
fn the_hook_fails_while_something_cannot_be_restored_and_then_succeeds() {
    if needs_devcluster("has nodes that lag") {
        return;
    }
    run(async {
        let (shop, webs, before) = intercepted_shop().await;
        std::fs::remove_file(may_start(&shop)).expect("removing the file");
        let hook = Hook::render(&shop, SHORT);
        hook.create(&shop).await;
        let Ended { status, said } = hook.run(&shop, 1).await;
        assert_eq!(status, 1, "{said}");
        for expected in
            ["shop/awake: restored\n", "shop/asleep: NOT restored: ", "1 are not restored, see above"]
        {
            assert!(said.contains(expected), "{expected:?} is not in {said}");
        }
        shop.until_seen(&webs[1], "its Service to be restored", |seen| seen.backend() == Backend::Workload)
            .await;
        shop.until_seen(&webs[0], "its Service to be intercepted still", |seen| {
            seen.backend() != Backend::Workload
        })
        .await;
        assert_eq!(intercepted(&shop).await, "1");
        std::fs::write(may_start(&shop), "").expect("writing the file");
        let ended = hook.run(&shop, 2).await;
        given_back(&shop, &webs, &before, &ended).await;
    });
}
