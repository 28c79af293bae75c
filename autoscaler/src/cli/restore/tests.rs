//! Restoring from plugins in memory, by a clock that the test moves.

use daemon::settings::Settings;
use scaler_types::Interception;

use super::*;
use crate::testing::{Store, id, sleeper};

fn source(store: &Store) -> RestoreSource {
    source_in("demo", store)
}

fn source_in(namespace: &str, store: &Store) -> RestoreSource {
    let settings = Settings { max_concurrent_wakes: 8, ..Settings::default() };
    let active = ActivePlugin { plugin: Arc::new(store.clone()), settings: settings.into() };
    RestoreSource { active, namespace: namespace.to_owned() }
}

/// What sleeps, the last one used last, and takes 10 s to start.
fn asleep(count: usize) -> Store {
    let store = Store::with([]);
    for number in 0..count {
        store.put(sleeper(&format!("r{number:02}"), number));
    }
    store.set(|inner| {
        (inner.start_takes, inner.restore_takes) = (Duration::from_secs(10), Duration::from_secs(60));
    });
    store
}

/// Whether it is up is seen when it is restored, and not before; or its plugin has nothing to restore.
#[tokio::test(start_paused = true)]
async fn one_whose_start_cannot_be_followed_is_woken_as_it_is_restored() {
    let store = asleep(2);
    for name in ["r00", "r01"] {
        store.change(name, |resource| resource.rollout = None);
    }
    store.change("r00", |resource| {
        resource.interception = Some(Interception { requested: true, ..Interception::default() })
    });
    store.inner().refuse_restore = [(id("r01"), ScaleError::Unsupported)].into();
    let (began, stop) = (Instant::now(), CancellationToken::new());
    let summary = restore(vec![source(&store)], None, MAX_RETRY_DELAY, &Wakes::new(8), &stop).await;
    assert_eq!(summary, Summary { restored: 1, skipped: 1, ..Summary::default() });
    let inner = store.inner();
    assert_eq!((&inner.restored[..], inner.woken.len()), (&[id("r00")][..], 0));
    // What restoring takes, and nothing before.
    assert!((60..62).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

/// A permit is kept until its workload is up, and not for the propagation delays after that.
#[tokio::test(start_paused = true)]
async fn asleep_resources_are_woken_at_a_pace_and_restored_when_up() {
    let store = asleep(40);
    store.put(Resource { replicas: 1, ..Resource::new(id("awake")) });
    // Woken last, and delays no other.
    store.change("r39", |resource| resource.record.failed_wake = "no image".to_owned());
    store.inner().never_up.insert(id("r39"));
    let (began, stop) = (Instant::now(), CancellationToken::new());
    let summary = restore(vec![source(&store)], None, MAX_RETRY_DELAY, &Wakes::new(8), &stop).await;
    assert_eq!(summary, Summary { restored: 41, ..Summary::default() });
    let took = began.elapsed().as_secs();
    let inner = store.inner();
    assert_eq!(inner.starting.1, 8);
    assert_eq!(inner.restored[0], id("awake"));
    assert!(inner.restored_starting.iter().all(|late| *late == id("r39")), "{:?}", inner.restored_starting);
    // Five rounds of 10 s, the last of which takes 60 s for one that never starts, and the propagation delays once.
    assert!((160..170).contains(&took), "{took} s");
    let mut order: Vec<usize> = inner.woken.iter().map(|name| name[1..].parse().unwrap()).collect();
    // Of eight that are woken at once any may be the first.
    let failed = order.iter().position(|number| *number == 39).unwrap();
    assert!(failed >= 32, "{order:?}");
    order.remove(failed);
    assert!(order.iter().enumerate().all(|(at, number)| (38 - number).abs_diff(at) < 8), "{order:?}");
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_resource_is_not_reported_as_restored() {
    let store = Store::with(["a", "b"]);
    let (wakes, stop) = (Wakes::new(8), CancellationToken::new());
    let run = async |only: Option<&str>| {
        restore(vec![source(&store)], only.map(id).as_ref(), MAX_RETRY_DELAY, &wakes, &stop).await
    };
    for (unreadable, only, restored, failed) in [
        (Some("b"), None, 1, 1),
        (Some("b"), Some("a"), 1, 0),
        (Some("b"), Some("b"), 0, 1),
        (None, None, 2, 1),
        (None, Some("a"), 1, 0),
        (None, Some("c"), 0, 1),
    ] {
        let unreadable = UnreadableResource { id: unreadable.map(id), error: "field replicas".to_owned() };
        store.set(|inner| inner.unreadable = vec![unreadable.clone()]);
        let summary = run(only).await;
        assert_eq!(summary, Summary { restored, failed, ..Summary::default() }, "{unreadable:?} {only:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_namespace_is_not_woken_behind_another() {
    let (first, second) = (asleep(40), asleep(4));
    let (wakes, stop) = (Wakes::new(8), CancellationToken::new());
    let began = Instant::now();
    let work =
        restore(vec![source_in("a", &first), source_in("b", &second)], None, MAX_RETRY_DELAY, &wakes, &stop);
    let woken = async {
        second.comes_to(|inner| inner.woken.len() == 4).await;
        began.elapsed().as_secs()
    };
    let (summary, took) = tokio::join!(work, woken);
    assert_eq!(summary.restored, 44);
    assert!(took < 10, "{took} s");
}

#[tokio::test(start_paused = true)]
async fn all_are_restored_whatever_comes_of_one() {
    let names: Vec<_> = (0..50).map(|number| format!("r{number}")).collect();
    let (store, other) = (Store::with(names.iter().map(String::as_str)), Store::with(["other"]));
    let retry = ScaleError::Retry { after: Duration::ZERO, reason: "the API is away".to_owned() };
    store.inner().refuse_restore = [
        (id("r1"), ScaleError::Terminal { reason: "quota".to_owned() }),
        (id("r2"), retry),
        (id("r3"), ScaleError::Unsupported),
    ]
    .into();
    other.inner().refuse_restore = [(id("other"), ScaleError::Unsupported)].into();
    // Scaled to zero by another writer.
    store.change("r4", |resource| resource.replicas = 0);
    let stop = CancellationToken::new();
    let summary =
        restore(vec![source(&store), source(&other)], None, MAX_RETRY_DELAY, &Wakes::new(8), &stop).await;
    assert_eq!(summary, Summary { restored: 47, skipped: 2, failed: 2, remaining: 0, at_zero: 1 });
    assert_eq!(store.inner().restored.len(), 47);
    let attempts = store.inner().calls.iter().filter(|call| **call == "release").count();
    assert_eq!(attempts, 49 + MAX_ATTEMPTS as usize);

    let one = restore(
        vec![source(&store), source(&other)],
        Some(&id("r7")),
        MAX_RETRY_DELAY,
        &Wakes::new(8),
        &stop,
    )
    .await;
    assert_eq!(one, Summary { restored: 1, ..Summary::default() });
    assert_eq!(store.inner().restored.last(), Some(&id("r7")));
    assert_eq!(store.inner().synced_dlxs.len(), 0, "only after all else is restored");
}

/// Services of resources that no longer exist are restored last. One that a plugin still finds intercepted another may restore.
#[tokio::test(start_paused = true)]
async fn services_of_resources_that_are_gone_are_restored_too() {
    let stop = CancellationToken::new();
    let still_led = || "the Service bank/x is still intercepted".to_owned();
    for (refusals, failed) in [(0, 0), (1, 0), (2, 1)] {
        let (store, other) = (Store::with(["hello"]), Store::with(["other"]));
        store.inner().refuse_sync_dlxs = (0..refusals).map(|_| still_led()).collect();
        let plugins = vec![source(&store), source(&other)];
        let summary = restore(plugins, None, MAX_RETRY_DELAY, &Wakes::new(8), &stop).await;
        assert_eq!(summary, Summary { restored: 2, failed, ..Summary::default() }, "{refusals}");
        let no_dlx = vec![Vec::<String>::new(); 1 + refusals.min(1)];
        assert_eq!(
            (&store.inner().synced_dlxs, &other.inner().synced_dlxs),
            (&no_dlx, &no_dlx),
            "{refusals}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_lost_leadership_restores_nothing() {
    let store = Store::with(["hello"]);
    let stop = CancellationToken::new();
    store.inner().refuse_restore =
        [(id("hello"), ScaleError::Retry { after: MAX_RETRY_DELAY, reason: "no".to_owned() })].into();
    let wakes = Wakes::new(8);
    let work = restore(vec![source(&store)], None, MAX_RETRY_DELAY, &wakes, &stop);
    let lose = async {
        store.until(|inner| inner.calls.contains(&"release")).await;
        stop.cancel();
    };
    let (summary, ()) = tokio::join!(work, lose);
    assert_eq!(summary, Summary { remaining: 1, ..Summary::default() });
    // Nor does it count as restored: helm would go on and uninstall.
    let summary = restore(vec![source(&store)], None, MAX_RETRY_DELAY, &Wakes::new(8), &stop).await;
    assert_eq!(summary, Summary { remaining: 1, ..Summary::default() });
}

#[test]
fn the_blocking_leader_is_named() {
    let status = Status {
        leader: Some("autoscaler-1".to_owned()),
        lease: Some("scaler/scaler-autoscaler".to_owned()),
        ..Status::default()
    };
    assert_eq!(
        describe_blocker(&status),
        "the autoscaler autoscaler-1 is the leader (Lease scaler/scaler-autoscaler)"
    );
    let error = Status { error: Some("not allowed".to_owned()), ..status };
    assert_eq!(describe_blocker(&error), "not allowed");
}
