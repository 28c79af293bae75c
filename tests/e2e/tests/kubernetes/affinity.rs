//! A Service with session affinity: intercepted only where its users accept that it keeps a client at a DLX, and at no pod.

use std::{collections::BTreeSet, net::SocketAddr};

use e2e::kubernetes::{Setting, Shop, Workload, run, shop::Part};
use serde_json::json;

use crate::restore::{as_before, intercept_patch};

/// As many new connections as certainly meet both of two.
const MANY: usize = 40;

/// The pods that answer many requests, each on a connection of its own, all of one client.
async fn met(shop: &Shop, web: &Workload, address: SocketAddr, part: &str) -> BTreeSet<String> {
    let mut met = BTreeSet::new();
    for number in 0..MANY {
        let answer = shop.served_at(address, web, &format!("{part}-{number}")).await;
        met.insert(answer.header("x-run").expect("the answering process's header").to_owned());
    }
    met
}

/// How many requests each DLX has received so far.
async fn dlx_requests(shop: &Shop) -> Vec<(String, f64)> {
    let metrics = shop.metrics(Part::Dlx).await;
    metrics.into_iter().map(|(pod, metrics)| (pod, metrics.sum("scaler_dlx_requests_total", &[]))).collect()
}

#[test]
fn session_affinity_is_refused_and_if_accepted_keeps_a_client_at_a_dlx() {
    run(async {
        let mut setting = Setting::intercepting();
        setting.flags.push("--endpoint-propagation-delay=1s".to_owned());
        let shop = Shop::open_with(setting).await;
        shop.nodes_hear_at_once();
        let web = Workload::new(&shop, "web").unmanaged().replicas(2);
        let mut service = web.service();
        service["spec"]["sessionAffinity"] = json!("ClientIP");
        shop.create(&service).await;
        shop.create(&web.object()).await;
        let address = shop.service(&web, 80).await[0];
        shop.until_port_sends(&web, 80, |known| known.len() == 2).await;
        let before = shop.snapshot().await;
        assert_eq!(met(&shop, &web, address, "own").await.len(), 1, "as the Service is meant");

        shop.patch(&web, intercept_patch(Some("always"))).await;
        shop.event(&web, "InterceptionRefused: ").await;
        shop.event(&web, "scaler.dev/ignore-checks: session-affinity").await;
        assert_eq!(met(&shop, &web, address, "refused").await.len(), 1, "nothing was touched");
        let annotate = |name: &str, value: Option<&str>| {
            let name = format!("scaler.dev/{name}");
            shop.patch(&web, json!({"metadata": {"annotations": {name: value}}}))
        };
        annotate("paused", Some("true")).await;
        annotate("ignore-checks", Some("session-affinity")).await;
        shop.until_intercepted(&web).await;
        let first = dlx_requests(&shop).await;
        assert_eq!(met(&shop, &web, address, "intercepted").await.len(), 2, "a DLX keeps no client at a pod");
        let second = dlx_requests(&shop).await;
        let more = first.iter().zip(&second).filter(|((_, first), (_, second))| second > first).count();
        assert_eq!(more, 1, "all by one DLX: {first:?} to {second:?}");

        annotate("paused", None).await;
        shop.asleep(&web).await;
        met(&shop, &web, address, "woken").await;
        shop.patch(&web, intercept_patch(None)).await;
        shop.until_restored(&web).await;
        for name in ["ignore-checks", "state"] {
            annotate(name, None).await;
        }
        assert_eq!(met(&shop, &web, address, "again").await.len(), 1);
        as_before(&shop, &web, &before).await;
    });
}
