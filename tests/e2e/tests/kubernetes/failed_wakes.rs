//! A wake that cannot succeed fails with its cause, long before its timeout.

use e2e::{
    kubernetes::{Setting, Shop, Workload, run},
    until,
    wait::wait_timeout,
};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::ListParams};
use serde_json::json;
use tokio::time::timeout;

/// Long, so that an answer within the test's timeout is an answer at once.
const LONG_HOLD: &str = "dlx: {holdTimeout: 10m, resourceReadinessTimeout: 10m}\n";

/// A sleeping workload, changed while it sleeps; the reason of the 503 that its next request gets.
async fn refused(shop: &Shop, web: &Workload, patch: serde_json::Value) -> String {
    shop.patch(web, patch).await;
    let answer =
        timeout(wait_timeout(), shop.ask(web, "/", "refused")).await.expect("held for want of a verdict");
    let answer = answer.expect("an answer");
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    shop.event(web, "WakeFailed: ").await;
    let answer = answer.json();
    assert_eq!(answer["resource"], format!("{}/{}", shop.names().namespace, web.id()));
    answer["reason"].as_str().unwrap_or_default().to_owned()
}

/// As soon as it is corrected it comes up.
async fn corrected(shop: &Shop, web: &Workload) {
    let mut count = 0;
    until("a later request to be answered", || {
        count += 1;
        let id = format!("later-{count}");
        async move {
            let answer =
                timeout(wait_timeout(), shop.ask(web, "/", &id)).await.map_err(|_| "held".to_owned())?;
            let answer = answer.map_err(|lost| lost.to_string())?;
            if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
        }
    })
    .await;
}

#[test]
fn a_missing_image_is_reported_in_the_kubelets_words_and_a_corrected_one_starts() {
    run(async {
        let shop = Shop::open_with(Setting::default().with(LONG_HOLD)).await;
        let web = Workload::new(&shop, "web");
        shop.deploy(&web).await;
        shop.asleep(&web).await;
        let image =
            |name: &str| json!({"spec": {"template": {"spec": {"containers": [web.container(name)]}}}});
        let reason = refused(&shop, &web, image(&shop.names().missing)).await;
        assert!(reason.contains("ImagePull") && reason.contains(&shop.names().missing), "{reason}");
        shop.patch(&web, image(&shop.names().service)).await;
        corrected(&shop, &web).await;
    });
}

#[test]
fn a_crash_loop_is_reported_with_its_exit_status() {
    run(async {
        let shop = Shop::open_with(Setting::default().with(LONG_HOLD)).await;
        let web = Workload::new(&shop, "web");
        shop.deploy(&web).await;
        shop.asleep(&web).await;
        let mut container = web.container(&shop.names().service);
        container["args"].as_array_mut().unwrap().extend([json!("--exit"), json!("3")]);
        let patch = json!({"spec": {"template": {"spec": {"containers": [container]}}}});
        let reason = refused(&shop, &web, patch).await;
        assert!(reason.contains("keeps crashing"), "{reason}");
        assert!(reason.contains("exited with status 3"), "{reason}");
        let anew = reason.split_once("restarted ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        assert!(anew.is_some_and(|times: u32| times >= 3), "given up before three restarts: {reason}");
        // The first of all, and of the wake all but the one that may not have got so far yet.
        assert!(web.read().starts.len() >= 4, "given up before three restarts: {reason}");
    });
}

#[test]
fn an_exceeded_quota_is_reported() {
    run(async {
        let shop = Shop::open_with(Setting::default().with(LONG_HOLD)).await;
        let web = Workload::new(&shop, "web");
        shop.deploy(&web).await;
        shop.asleep(&web).await;
        // The pods that are there are all it allows.
        let pods: Api<Pod> = Api::namespaced(shop.client.clone(), &shop.names().namespace);
        let count = pods.list(&ListParams::default()).await.expect("listing the pods").items.len();
        let quota = json!({
            "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "full", "namespace": shop.names().namespace},
            "spec": {"hard": {"pods": count.to_string()}},
        });
        shop.create(&quota).await;
        let reason = refused(&shop, &web, json!({})).await;
        assert!(reason.contains("exceeded quota"), "{reason}");
    });
}
