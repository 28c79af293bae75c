//! Any text in a record, by whomever it was written: it can be read, and written again.

mod common;

use std::sync::atomic::{AtomicU32, Ordering};

use common::*;
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use scaler_types::{Phase, Record, ResourceScaler as _, Target};
use serde_json::json;

/// What somebody else wrote in the record's place.
#[derive(Clone, Debug)]
enum Before {
    /// Nothing: our own, from the round before.
    Ours,
    /// An earlier version's: JSON with its texts as they are.
    Earlier(String),
    /// A user's.
    Anything(String),
}

/// Letters that serialisers write in different ways, among all others.
fn text() -> impl Strategy<Value = String> {
    let odd = "<>&\u{2028}\u{2029}\u{7f}\u{0}\n\t\u{8}\u{c}\\\"'/~→ä😀\u{feff}\u{fffd}";
    let letter = prop_oneof![
        3 => prop::sample::select(odd.chars().collect::<Vec<_>>()),
        1 => any::<char>(),
        1 => prop::char::range(' ', '~'),
    ];
    prop::collection::vec(letter, 0..24).prop_map(|letters| letters.into_iter().collect())
}

fn before() -> impl Strategy<Value = Before> {
    prop_oneof![Just(Before::Ours), text().prop_map(Before::Earlier), text().prop_map(Before::Anything),]
}

#[test]
fn any_text_is_written_read_and_written_again() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (scene, plugin) = runtime.block_on(async {
        let scene = Scene::with_web().await;
        let plugin = scene.autoscaler().await;
        (scene, plugin)
    });
    let mut runner = TestRunner::new(Config {
        cases: 96,
        max_shrink_iters: 0,
        failure_persistence: None,
        ..Config::default()
    });
    let rounds = AtomicU32::new(0);
    let round = async |before: Before, reason: String, wish: String| {
        // Another one each time: it is obeyed once.
        let wish = format!("{wish}{}", rounds.fetch_add(1, Ordering::Relaxed));
        match &before {
            Before::Ours => {}
            Before::Earlier(reason) => {
                let text = json!({"phase":"active", "nonce": "7", "reason": reason}).to_string();
                scene.annotate("web", "scaler.dev/state", &text).await;
                until(&plugin, "web", |web| web.record.reason == *reason).await;
            }
            Before::Anything(text) => {
                scene.annotate("web", "scaler.dev/state", text).await;
                until(&plugin, "web", |web| {
                    web.record == Record::default() && web.status.contains("scaler.dev/state")
                })
                .await;
            }
        }
        scene.annotate("web", "scaler.dev/sleep-now", &wish).await;
        let generation = scene.get("Deployment", "web").await.metadata.generation.unwrap().to_string();
        let seen = until(&plugin, "web", |web| web.version.0.split('/').nth(1) == Some(&generation)).await;
        assert!(seen.sleep_now);
        let said = |state, nonce| Record { reason: reason.clone(), ..record(state, nonce) };
        let fenced = plugin.compare_and_set(&id("web"), &seen.version, &said(Phase::Draining, 1)).await;
        let asleep = request("web", Target::Zero, &fenced.unwrap(), said(Phase::Asleep, 1));
        plugin.set_scale(&asleep).await.unwrap();
        scene.observe("web", 0).await;
        let slept = until(&plugin, "web", |web| web.record.phase == Phase::Asleep).await;
        assert_eq!(slept.record.reason, reason);
        let up = request("web", Target::AtLeast(1), &slept.version, said(Phase::Waking, 2));
        plugin.set_scale(&up).await.unwrap();
        let woken = one(&plugin, "web").await;
        assert_eq!((woken.replicas, woken.sleep_now), (3, false), "the wish was granted");
        plugin.compare_and_set(&id("web"), &woken.version, &said(Phase::Active, 3)).await.unwrap();
    };
    let outcome = runner.run(&(before(), text(), text()), |(before, reason, wish)| {
        runtime.block_on(round(before, reason, wish));
        Ok(())
    });
    outcome.unwrap();
}
