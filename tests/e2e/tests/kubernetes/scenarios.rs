//! Scenarios that run on a correct API, and on one that lacks a guarantee.

use std::time::Duration;

use devcluster::{Filter, Options, Refusal};
use e2e::{
    kubernetes::{
        Setting, Shop, Workload,
        shop::{Part, SECOND_DLX},
    },
    load::{get, once},
    until,
    wait::pause,
};
use serde_json::json;

/// Several decisions after the window's end.
const SEVERAL_DECISIONS: Duration = Duration::from_secs(4);

/// How long what the autoscaler writes is on its way to the API.
const COMMIT_TAKES: Duration = Duration::from_secs(3);
/// They do in milliseconds.
const BOTH_HAVE_CONFIRMED: Duration = Duration::from_millis(500);
/// As a client pauses that asks again.
const A_RETRY: Duration = Duration::from_millis(500);

/// One of two DLXs sees no change any more. Whether the workload that is idle then sleeps.
pub async fn sleeps_beside_a_stalled_watch(api: Options) -> bool {
    let shop = Shop::open_with(Setting { api, dlxs: 1, second_dlx: true, ..Setting::default() }).await;
    let web = Workload::new(&shop, "web").annotation("paused", "true");
    shop.deploy(&web).await;
    shop.served(&web, "one").await;
    let stall = shop.cluster().faults().stall_watches(Filter::any().user(SECOND_DLX));
    shop.patch(&web, json!({"metadata": {"annotations": {"scaler.dev/paused": null}}})).await;
    pause(SEVERAL_DECISIONS).await;
    let slept = shop.object(&web).await.data["spec"]["replicas"] == 0;
    if slept {
        return true;
    }
    // What the one that sees nothing lets pass is answered.
    let answer = once(shop.second_dlx().await, &get(&web.host(), "/", "two")).await.expect("an answer");
    assert_eq!((answer.status, answer.header("x-request-id")), (200, Some("two")), "{}", answer.text());
    stall.end();
    shop.asleep(&web).await;
    shop.served(&web, "three").await;
    assert!(web.read().requests.values().all(|&times| times == 1));
    false
}

/// A DLX's watches are away while its workload gets other pods, and what happened is forgotten when they are back. Whether
/// a request is answered then.
pub async fn answers_after_a_gap_in_its_watches(api: Options) -> bool {
    let setting = Setting { api, dlxs: 1, autoscalers: 0, ..Setting::default() };
    let shop = Shop::open_with(setting.with("dlx: {holdTimeout: 2s}\n")).await;
    let web = Workload::new(&shop, "web");
    shop.deploy(&web).await;
    shop.served(&web, "one").await;
    let dlx = Filter::any().user(Part::Dlx.user());
    let faults = shop.cluster().faults();
    let away = faults.refuse(dlx.clone().verb("watch"), u32::MAX, Refusal::Unavailable);
    faults.drop_watches(dlx);
    for replicas in [0, 1] {
        shop.patch(&web, json!({"spec": {"replicas": replicas}})).await;
        until("the pods to follow", || async {
            let pods = shop.pods_of(&web).await;
            if pods.len() == replicas { Ok(()) } else { Err(format!("{pods:?}")) }
        })
        .await;
    }
    until("the second pod to be ready", || async {
        let web = shop.object(&web).await;
        // Until it is observed, the status may still count the first pod.
        let (status, generation) = (&web.data["status"], web.metadata.generation);
        let observed = status["observedGeneration"].as_i64() == generation;
        if observed && status["readyReplicas"] == 1 { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    shop.cluster().compact();
    away.end();
    for number in 0..5 {
        pause(A_RETRY).await;
        let answer = shop.ask(&web, "/", &format!("after-{number}")).await;
        if answer.is_ok_and(|answer| answer.status == 200) {
            return true;
        }
    }
    false
}

/// A request that comes after its DLX has confirmed a drain attempt, and before the autoscaler's commit has reached the API.
/// Whether it is answered.
pub async fn answered_between_confirmation_and_commit(api: Options) -> bool {
    let shop = Shop::open_with(Setting { api, ..Setting::default() }).await;
    let web = Workload::new(&shop, "web");
    shop.deploy(&web).await;
    shop.asleep(&web).await;
    shop.served(&web, "one").await;
    let patches = Filter::any().user(Part::Autoscaler.user()).verb("patch").resource("deployments");
    let late = shop.cluster().faults().latency(patches, COMMIT_TAKES);
    shop.state_is(&web, "draining").await;
    pause(BOTH_HAVE_CONFIRMED).await;
    let path = format!("/slow/{}", (COMMIT_TAKES * 2).as_millis());
    let answer = shop.ask(&web, &path, "two").await;
    late.end();
    println!("{answer:?}");
    answer.is_ok_and(|answer| answer.status == 200 && answer.header("x-request-id") == Some("two"))
}
