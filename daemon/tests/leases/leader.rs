//! One leads: through failures of the API, of the leader, of the watch.

use std::time::Duration;

use daemon::{
    coordination::Coordinator,
    leader::{Leader, Leadership, Timing},
};
use devcluster::{Filter, Refusal};
use futures_util::{StreamExt, pin_mut};
use k8s_openapi::{api::coordination::v1::Lease, serde_json::json};
use kube::api::{DeleteParams, Patch, PatchParams, WatchEvent, WatchParams};

use crate::{Site, soon};

const NAME: &str = "scaler-autoscaler";

/// As the daemon's, five times as fast.
const FAST: Timing = Timing {
    lease: Duration::from_secs(3),
    renew: Duration::from_millis(500),
    deadline: Duration::from_secs(2),
    pause: Duration::from_millis(100),
};
/// Whoever waits for the Lease to run out waits in vain.
const FOR_EVER: Timing = Timing {
    lease: Duration::from_secs(3600),
    renew: Duration::from_millis(100),
    deadline: Duration::from_secs(1800),
    pause: Duration::from_millis(10),
};

async fn candidate(site: &Site, timing: Timing) -> Leader {
    Leader::new(&site.autoscaler().await, timing)
}

async fn lead(leader: &Leader) -> Leadership {
    soon(leader.lead()).await.unwrap()
}

async fn holder(site: &Site) -> String {
    site.lease(NAME).await.unwrap().spec.unwrap().holder_identity.unwrap()
}

/// Returns when the Lease was written so many times more.
async fn renewed(site: &Site, times: usize) {
    let leases = site.api::<Lease>();
    let version = leases.get(NAME).await.unwrap().metadata.resource_version.unwrap();
    let events = leases.watch(&WatchParams::default(), &version).await.unwrap();
    pin_mut!(events);
    for _ in 0..times {
        let event = soon(events.next()).await.unwrap().unwrap();
        assert!(matches!(event, WatchEvent::Modified(_)), "{event:?}");
    }
}

/// Nobody else leads until then.
async fn stands_by(leader: &Leader, until: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        _ = leader.lead() => panic!("two lead"),
        () = until => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lead_that_is_released_is_the_next_ones_at_once() {
    let site = Site::start().await;
    let (first, second) = (candidate(&site, FOR_EVER).await, candidate(&site, FOR_EVER).await);
    let leads = lead(&first).await;
    assert!(first.status()().is_leader);
    stands_by(&second, renewed(&site, 5)).await;
    let next = async {
        let next = lead(&second).await;
        assert_eq!(second.status()().leader.unwrap(), holder(&site).await);
        next
    };
    let release = async {
        renewed(&site, 2).await;
        leads.release().await;
    };
    let (next, ()) = tokio::join!(next, release);
    assert!(!first.status()().is_leader);
    assert!(!next.lost().is_cancelled());
    let spec = site.lease(NAME).await.unwrap().spec.unwrap();
    assert_eq!(spec.lease_transitions, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lead_that_is_ended_leaves_no_lease_behind() {
    let site = Site::start().await;
    let first = candidate(&site, FOR_EVER).await;
    lead(&first).await.end().await;
    assert_eq!(site.lease(NAME).await, None);
    assert!(!first.status()().is_leader);
    // Whoever starts after all leads as ever.
    let second = candidate(&site, FOR_EVER).await;
    let _leads = lead(&second).await;
    assert_eq!(second.status()().leader.unwrap(), holder(&site).await);
    let spec = site.lease(NAME).await.unwrap().spec.unwrap();
    assert_eq!(spec.lease_transitions, Some(0), "it is a new one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_killed_is_followed_when_its_lease_has_run_out() {
    let site = Site::start().await;
    let (first, second) = (candidate(&site, FAST).await, candidate(&site, FAST).await);
    let leads = lead(&first).await;
    stands_by(&second, renewed(&site, 10)).await;
    // Its renewals end, as those of a process do.
    drop(leads);
    lead(&second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_longer_than_the_deadline_loses_the_lead_and_a_short_one_does_not() {
    let site = Site::start().await;
    let leader = candidate(&site, FAST).await;
    let leads = lead(&leader).await;
    let outage = site.cluster.faults().outage();
    soon(until(|| leader.status()().error.is_some())).await;
    outage.end();
    renewed(&site, 3).await;
    assert!(!leads.lost().is_cancelled());
    assert_eq!(leader.status()().error, None);

    let outage = site.cluster.faults().outage();
    soon(leads.lost().cancelled()).await;
    assert!(!leader.status()().is_leader);
    let again = async {
        // While nothing can be reached nobody leads.
        stands_by(&leader, until(|| leader.status()().error.is_some())).await;
        outage.end();
        lead(&leader).await
    };
    assert!(!again.await.lost().is_cancelled());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_does_not_answer_loses_the_lead_in_time() {
    let site = Site::start().await;
    let leader = candidate(&site, FAST).await;
    let leads = lead(&leader).await;
    let _hangs = site.cluster.faults().latency(Filter::any().resource("leases"), Duration::from_secs(3600));
    soon(leads.lost().cancelled()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_and_errors_are_lived_through() {
    let site = Site::start().await;
    for refusal in
        [Refusal::Conflict, Refusal::TooManyRequests(1), Refusal::InternalError, Refusal::Unavailable]
    {
        let leader = candidate(&site, FOR_EVER).await;
        let _fault = site.cluster.faults().refuse(Filter::any().resource("leases"), 5, refusal);
        let leads = lead(&leader).await;
        let again = site.cluster.faults().refuse(Filter::any().resource("leases").verb("update"), 5, refusal);
        soon(until(|| site.cluster.faults().refusals_left() == 0)).await;
        again.end();
        renewed(&site, 2).await;
        assert!(!leads.lost().is_cancelled(), "{refusal:?}");
        leads.release().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_or_broken_watch_only_delays_the_next_leader() {
    let site = Site::start().await;
    let (first, second) = (candidate(&site, FAST).await, candidate(&site, FAST).await);
    let leads = lead(&first).await;
    {
        let _stalled = site
            .cluster
            .faults()
            .stall_watches(Filter::any().user("system:serviceaccount:scaler:autoscaler"));
        // Longer than the Lease: it is never seen to be renewed, and still is.
        stands_by(&second, renewed(&site, 15)).await;
        let next = async { lead(&second).await };
        let (next, ()) = tokio::join!(next, leads.release());
        next.release().await;
    }
    let leads = lead(&first).await;
    let drops = async {
        for _ in 0..5 {
            renewed(&site, 1).await;
            site.cluster.faults().drop_watches(Filter::any());
            site.cluster.compact();
        }
    };
    stands_by(&second, drops).await;
    leads.release().await;
    lead(&second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_the_lease_away_or_deletes_it_ends_the_lead() {
    let site = Site::start().await;
    let leases = site.api::<Lease>();
    let leader = candidate(&site, FOR_EVER).await;
    let leads = lead(&leader).await;
    leases.delete(NAME, &DeleteParams::default()).await.unwrap();
    // Anybody may have created it anew.
    soon(leads.lost().cancelled()).await;
    let leads = lead(&leader).await;
    renewed(&site, 2).await;

    let note = Patch::Merge(json!({"metadata": {"annotations": {"note": "kept"}}}));
    leases.patch(NAME, &PatchParams::default(), &note).await.unwrap();
    renewed(&site, 2).await;
    assert_eq!(site.lease(NAME).await.unwrap().metadata.annotations.unwrap()["note"], "kept");

    let other = Patch::Merge(json!({"spec": {"holderIdentity": "somebody"}}));
    leases.patch(NAME, &PatchParams::default(), &other).await.unwrap();
    soon(leads.lost().cancelled()).await;
    assert_eq!(holder(&site).await, "somebody");
    leads.release().await;
    assert_eq!(holder(&site).await, "somebody", "what is not its own it does not give up");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_is_named() {
    let site = Site::start().await;
    site.allow(
        "nobody",
        &json!([{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get"]}]),
    )
    .await;
    let leader = Leader::new(&Coordinator::Leases(site.process("nobody", Some("autoscaler-0")).await), FAST);
    let told =
        until(|| leader.status()().error.is_some_and(|why| why.contains("needs the verb create on leases")));
    soon(stands_by(&leader, told)).await;
}

async fn until(mut fulfilled: impl FnMut() -> bool) {
    while !fulfilled() {
        #[expect(clippy::disallowed_methods, reason = "nothing tells when a status changes")]
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
