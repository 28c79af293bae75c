//! Intercepted Services are restored: when their users opt out, when no DLX is left, and by `autoscaler restore` after a kill at
//! any point; and are then as they were, field by field.

use std::time::Duration;

use e2e::{
    kubernetes::{Setting, Shop, Snapshot, Workload, WorkloadView, needs_devcluster, run, shop::Part},
    load::{self, get},
};
use scaler_types::{Backend, Phase};
use serde_json::{Value, json};

/// Whether it is at that record.
type Wanted = fn(&WorkloadView) -> bool;

/// Two replicas and a Service of two ports, before anything is opted in; and a snapshot of it.
pub async fn before(shop: &Shop, name: &str) -> (Workload, Snapshot) {
    begin(shop, Workload::new(shop, name)).await
}

/// The same of this workload.
pub async fn begin(shop: &Shop, web: Workload) -> (Workload, Snapshot) {
    let web = web.unmanaged().replicas(2).lines();
    shop.create(&web.service()).await;
    shop.create(&web.object()).await;
    shop.until_port_sends(&web, 80, |known| known.len() == 2).await;
    let snapshot = shop.snapshot().await;
    (web, snapshot)
}

/// Opts in, or out.
pub fn intercept_patch(mode: Option<&str>) -> Value {
    let window = mode.map(|_| "1s");
    json!({"metadata": {"annotations": {"scaler.dev/scale-to-zero": window, "scaler.dev/intercept": mode}}})
}

/// All is as before but for what its users have written themselves, and that too once they removed it.
pub async fn as_before(shop: &Shop, web: &Workload, before: &Snapshot) {
    shop.patch(web, intercept_patch(None)).await;
    // Theirs may have been the only annotation.
    let now = shop.snapshot().await;
    let mut differences = before.differences(&now);
    differences.retain(|difference| {
        let emptied = format!("Deployment {} /metadata /annotations: null -> {{}}", web.name);
        *difference != emptied && !difference.starts_with("Deployment scaler-")
    });
    assert!(differences.is_empty(), "{differences:#?}");
}

#[test]
fn opting_out_restores_a_service_that_is_awake_and_one_that_is_asleep() {
    run(async {
        let shop = Shop::open_with(Setting::intercepting()).await;
        let (web, before) = before(&shop, "web").await;
        let addresses = shop.service(&web, 80).await;
        for asleep in [false, true] {
            shop.patch(&web, intercept_patch(Some("always"))).await;
            shop.until_intercepted(&web).await;
            if asleep {
                shop.asleep(&web).await;
            } else {
                shop.patch(&web, json!({"metadata": {"annotations": {"scaler.dev/paused": "true"}}})).await;
            }
            shop.patch(&web, intercept_patch(None)).await;
            if asleep {
                // Nothing else would answer: it is woken by the request, and then restored.
                let answer =
                    load::once(addresses[1], &get(&web.host(), "/", "one")).await.expect("an answer");
                assert_eq!(answer.status, 200, "{}", answer.text());
            }
            shop.until_restored(&web).await;
            shop.patch(&web, json!({"metadata": {"annotations": {"scaler.dev/paused": null}}})).await;
        }
        let object = shop.object(&web).await;
        assert_eq!(object.data["spec"]["replicas"], 2);
        shop.patch(&web, json!({"metadata": {"annotations": {"scaler.dev/state": null}}})).await;
        as_before(&shop, &web, &before).await;
    });
}

/// The leader is killed at each phase of the record, and everything is restored from there.
#[test]
fn restore_after_a_kill_at_any_record_leaves_equal_objects() {
    if needs_devcluster("kills a process") {
        return;
    }
    run(async {
        let setting = Setting { autoscalers: 1, ..Setting::intercepting() };
        let shop = Shop::open_with(setting).await;
        let (web, before) = before(&shop, "web").await;
        let addresses = shop.service(&web, 80).await;
        let records: [(&str, Wanted); 6] = [
            ("a slice", |seen| seen.ours().next().is_some()),
            ("a Service just intercepted", |seen| seen.backend() == Backend::Dlx),
            ("a drain attempt", |seen| seen.state() == Some(Phase::Draining)),
            ("a commit", |seen| seen.state() == Some(Phase::Asleep)),
            ("a wake", |seen| seen.state() == Some(Phase::Waking)),
            ("awake again", |seen| seen.state() == Some(Phase::Active) && seen.replicas() == 2),
        ];
        for (what, wanted) in records {
            let wakes = matches!(what, "a wake" | "awake again");
            let prepared = async {
                shop.patch(&web, intercept_patch(Some("always"))).await;
                if wakes {
                    shop.asleep(&web).await;
                    let answer = load::once(addresses[0], &get(&web.host(), "/", what)).await;
                    assert_eq!(answer.expect("an answer").status, 200, "{what}");
                }
            };
            let killed = async {
                if wakes {
                    shop.until_seen(&web, "its sleep", |seen| seen.state() == Some(Phase::Asleep)).await;
                }
                shop.kill_leader_at(&web, what, wanted).await
            };
            tokio::join!(prepared, killed);
            shop.scale(Part::Autoscaler, 0).await;
            let said = shop.restore(&[]).await;
            println!("{what}: {}", said.lines().last().unwrap_or_default());
            let object = shop.object(&web).await;
            assert_eq!(object.data["spec"]["replicas"], 2, "{what}: {said}");
            as_before(&shop, &web, &before).await;
            shop.scale(Part::Autoscaler, 1).await;
        }
    });
}

#[test]
fn without_a_dlx_traffic_fails_over_to_the_pods() {
    run(async {
        let mut setting = Setting::intercepting();
        setting.flags.push("--shutdown-grace=2s".to_owned());
        setting.autoscaler_flags.push("--dlx-unavailable-timeout=2s".to_owned());
        let shop = Shop::open_with(setting).await;
        let (asleep, _) = before(&shop, "asleep").await;
        let (awake, _) = before(&shop, "awake").await;
        for web in [&asleep, &awake] {
            shop.patch(web, intercept_patch(Some("always"))).await;
            shop.until_intercepted(web).await;
        }
        shop.patch(&awake, json!({"metadata": {"annotations": {"scaler.dev/paused": "true"}}})).await;
        shop.asleep(&asleep).await;
        shop.scale(Part::Dlx, 0).await;
        for web in [&asleep, &awake] {
            shop.until_restored(web).await;
            let answer = load::once(shop.service(web, 80).await[0], &get(&web.host(), "/", "one")).await;
            let answer = answer.expect("an answer");
            assert_eq!(
                (answer.status, answer.header("x-request-id")),
                (200, Some("one")),
                "{}",
                answer.text()
            );
            shop.event(web, "InterceptionRemoved").await;
        }
        shop.event(&asleep, "DLXUnavailable").await;
        shop.scale(Part::Dlx, 2).await;
        for web in [&asleep, &awake] {
            shop.until_intercepted(web).await;
        }
        shop.asleep(&asleep).await;
    });
}

/// A DLX that is killed loses what was inside it, as any proxy does, and new connections are refused until no slice names it.
#[test]
fn requests_lost_to_a_killed_dlx_are_counted() {
    if needs_devcluster("kills a process") {
        return;
    }
    run(async {
        let shop = Shop::open_with(Setting::intercepting()).await;
        let (web, _) = before(&shop, "web").await;
        shop.patch(&web, intercept_patch(Some("always"))).await;
        shop.until_intercepted(&web).await;
        let addresses = shop.service(&web, 80).await;
        let pods = shop.pods(Part::Dlx).await;
        let killed = pods[0].metadata.name.clone().expect("a pod's name");
        let address = pods[0].status.as_ref().and_then(|status| status.pod_ip.clone()).expect("its address");
        let names_it = |seen: &WorkloadView| seen.ours().any(|slice| slice.to_string().contains(&address));
        shop.kill(&killed);
        shop.delete_now(&killed).await;
        let over = async {
            shop.until_seen(&web, "no slice to name it", |seen| !names_it(seen)).await;
            for (node, at) in addresses.iter().enumerate() {
                let gone =
                    |known: &[std::net::SocketAddr]| known.iter().all(|end| end.ip().to_string() != address);
                shop.proxy().until(node, *at, gone).await;
            }
        };
        let mut over = std::pin::pin!(over);
        let (mut refused, mut answered, mut number) = (0, 0, 0);
        loop {
            number += 1;
            let request = get(&web.host(), "/", &format!("r{number}"));
            tokio::select! {
                biased;
                () = &mut over => break,
                answer = load::once(addresses[number % 2], &request) => match answer {
                    Ok(answer) => {
                        assert_eq!(answer.status, 200);
                        answered += 1;
                    }
                    Err(_) => refused += 1,
                },
            }
        }
        println!("until every node had heard of it: {refused} refused or reset, {answered} answered");
        for number in 0..50 {
            let request = get(&web.host(), "/", &format!("after-{number}"));
            let answer = load::once(addresses[number % 2], &request).await.expect("an answer");
            assert_eq!(answer.status, 200);
        }
    });
}

/// Two writers of one selector: a server-side apply of the user's manifest removes our key; it is set again, three times.
#[test]
fn a_service_whose_selector_key_is_removed_again_and_again_is_left_alone() {
    run(async {
        let shop = Shop::open_with(Setting::intercepting()).await;
        let (web, _) = before(&shop, "web").await;
        shop.patch(&web, intercept_patch(Some("always"))).await;
        for time in 1..=3 {
            shop.until_seen(&web, "our key", WorkloadView::has_selector_key).await;
            shop.merge(&web.service(), json!({"spec": {"selector": {"scaler.dev/intercepted": null}}})).await;
            println!("taken away: {time}");
        }
        shop.event(&web, "InterceptionRefused").await;
        shop.until_restored(&web).await;
        let answer = load::once(shop.service(&web, 80).await[0], &get(&web.host(), "/", "one")).await;
        assert_eq!(answer.expect("an answer").status, 200);
        e2e::wait::pause(Duration::from_secs(2)).await;
        assert_eq!(shop.state("web"), "", "nothing is drained that passes no DLX");
    });
}
