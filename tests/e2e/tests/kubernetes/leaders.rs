//! Leader changes: the next leader continues from whatever was begun, and one that has lost leadership writes nothing.
//!
//! Load by itself does not show it: a leader that is stopped reverts what it began, and requests revert what one that was killed has
//! left.

use std::time::Duration;

use devcluster::Filter;
use e2e::{
    kubernetes::{Setting, Shop, Workload, WorkloadView, needs_devcluster, run, shop::Part},
    until,
    wait::pause,
};
use k8s_openapi::{
    api::coordination::v1::Lease, apimachinery::pkg::apis::meta::v1::MicroTime, jiff::Timestamp,
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use scaler_types::{Backend, Phase};
use serde_json::json;

use crate::restore::{as_before, before, intercept_patch};

/// A leader renews its Lease every five seconds.
const RENEWAL: Duration = Duration::from_secs(5);

/// Sets the Lease's holder; none is as when the time has passed in which a dead one could have renewed it.
pub async fn holds(shop: &Shop, holder: &str) {
    let leases: Api<Lease> = Api::namespaced(shop.client.clone(), &shop.names().namespace);
    let now = MicroTime(Timestamp::now());
    let patch = Patch::Merge(json!({"spec": {"holderIdentity": holder, "renewTime": now}}));
    let patched = leases.patch("scaler-autoscaler", &PatchParams::default(), &patch).await;
    patched.expect("patching the Lease");
}

/// The leader is killed the moment a workload is seen so, and another autoscaler is the leader at once.
pub async fn change_at(shop: &Shop, web: &Workload, what: &str, wanted: impl Fn(&WorkloadView) -> bool) {
    let (killed, _) = shop.kill_leader_at(web, what, wanted).await;
    holds(shop, "").await;
    println!("{what}: {killed} was killed");
}

async fn answered(shop: &Shop, web: &Workload, id: &str) {
    let address = shop.service(web, 80).await[0];
    shop.served_at(address, web, id).await;
}

#[test]
fn another_leader_continues_from_every_phase() {
    if needs_devcluster("kills a process") {
        return;
    }
    run(async {
        let shop = Shop::open_with(Setting::intercepting()).await;
        let (web, before) = before(&shop, "web").await;
        tokio::join!(
            shop.patch(&web, intercept_patch(Some("always"))),
            change_at(&shop, &web, "a slice", |seen| seen.ours().next().is_some()),
        );
        shop.until_intercepted(&web).await;
        shop.asleep(&web).await;

        // Between the drain attempt and the commit, which is on its way for a while.
        answered(&shop, &web, "one").await;
        let patches = Filter::any().user(Part::Autoscaler.user()).verb("patch").resource("deployments");
        let late = shop.cluster().faults().latency(patches, Duration::from_secs(1));
        change_at(&shop, &web, "a drain attempt", |seen| seen.state() == Some(Phase::Draining)).await;
        late.end();
        let seen =
            shop.until_seen(&web, "the drain to be reverted", |seen| seen.state() != Some(Phase::Draining));
        assert_eq!(seen.await.state(), Some(Phase::Active), "no leader has seen it idle");
        shop.asleep(&web).await;

        // On the way back.
        answered(&shop, &web, "two").await;
        tokio::join!(
            shop.patch(&web, intercept_patch(None)),
            change_at(&shop, &web, "both", |seen| seen.backend() == Backend::Both),
        );
        shop.until_restored(&web).await;
        answered(&shop, &web, "three").await;
        shop.patch(&web, json!({"metadata": {"annotations": {"scaler.dev/state": null}}})).await;
        as_before(&shop, &web, &before).await;
    });
}

/// The Lease is taken from a running leader. From its next renewal on it knows, and there is no leader.
#[test]
fn a_former_leader_writes_nothing() {
    if needs_devcluster("counts what the API is asked for") {
        return;
    }
    run(async {
        let shop = Shop::open_with(Setting { autoscalers: 1, ..Setting::intercepting() }).await;
        let (web, _) = before(&shop, "web").await;
        shop.patch(&web, intercept_patch(Some("always"))).await;
        shop.patch(&web, json!({"metadata": {"annotations": {"scaler.dev/paused": "true"}}})).await;
        shop.until_intercepted(&web).await;

        let requests = shop.cluster().requests();
        let its = || Filter::any().user(Part::Autoscaler.user());
        requests.reset();
        holds(&shop, "another-process").await;
        until("a renewal", || async {
            let renewals = requests.of(&its().verb("update").resource("leases"));
            if renewals > 0 { Ok(()) } else { Err("none".to_owned()) }
        })
        .await;
        pause(RENEWAL / 10).await;
        requests.reset();
        // There would be something to do: a DLX that no slice is to name any more, and no requests.
        let dlx = shop.pods(Part::Dlx).await[0].metadata.name.clone().expect("a pod's name");
        shop.delete_now(&dlx).await;
        shop.patch(&web, json!({"metadata": {"annotations": {"scaler.dev/paused": null}}})).await;
        pause(RENEWAL).await;
        for verb in ["create", "update", "patch", "delete"] {
            for resource in ["deployments", "deployments/scale", "services", "endpointslices", "configmaps"] {
                let written = requests.of(&its().verb(verb).resource(resource));
                assert_eq!(written, 0, "{verb} {resource}, by a former leader");
            }
        }
        assert_eq!(shop.object(&web).await.data["spec"]["replicas"], 2);
        holds(&shop, "").await;
        shop.asleep(&web).await;
        answered(&shop, &web, "one").await;
    });
}
