//! Many that are to be woken at once.

use std::sync::Arc;

use daemon::settings::Settings;
use scaler_types::{Interception, Resource};
use tokio::time::Instant;

use super::{SECOND, Site, settle, start_interceptor};
use crate::testing::{LONG, Store, id, sleeper};

/// One of many, with a Service.
fn intercepted_sleeper(name: &str, slept: usize) -> Resource {
    let interception = Some(Interception { requested: true, ..Interception::default() });
    Resource { interception, ..sleeper(name, slept) }
}

/// Nobody waits for any of them: they have half of the namespace's places.
fn eight_places() -> Arc<Settings> {
    Arc::new(Settings { scale_interval: LONG, max_concurrent_wakes: 8, ..Settings::default() })
}

/// A place is kept until the workload is up, not until its wake is written.
#[tokio::test(start_paused = true)]
async fn many_are_woken_at_a_pace_the_last_used_first() {
    const ALL: usize = 60;
    let store = Store::with([]);
    for number in 0..ALL {
        // In an order of their own.
        store.put(intercepted_sleeper(&format!("r{number}"), (number * 37) % ALL));
    }
    store.set(|inner| inner.start_takes = 10 * SECOND);
    let site = Site::with(&store, &[], eight_places());
    store.comes_to(|inner| inner.woken.len() == ALL).await;
    assert_eq!(store.inner().starting.1, 4, "half of the namespace's budget");
    let woken = store.inner().woken.clone();
    let slept = |name: &str| (name[1..].parse::<usize>().unwrap() * 37) % ALL;
    let order: Vec<_> = woken.iter().map(|name| slept(name)).collect();
    // Of four that are woken at once any may be the first.
    assert!(order.iter().enumerate().all(|(at, slept)| (ALL - 1 - slept).abs_diff(at) < 4), "{order:?}");
    settle(11 * SECOND).await;
    assert_eq!((store.inner().starting.0, site.context.wakes.under_way()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn those_whose_last_wake_failed_come_last() {
    let store = Store::with([]);
    for number in 0..20 {
        let mut resource = intercepted_sleeper(&format!("r{number:02}"), number);
        // Among them those that were used last.
        if number >= 15 {
            resource.record.failed_wake = "ImagePullBackOff".to_owned();
        }
        store.put(resource);
    }
    store.set(|inner| inner.start_takes = 10 * SECOND);
    let _site = Site::with(&store, &[], eight_places());
    store.comes_to(|inner| inner.woken.len() == 20).await;
    let inner = store.inner();
    // Of four that are woken at once any may be the first.
    assert!(inner.woken[..12].iter().all(|name| **name < *"r15"), "{:?}", inner.woken);
    assert!(inner.woken[16..].iter().all(|name| **name >= *"r15"), "{:?}", inner.woken);
}

/// A permit is returned after a minute, or when the readiness timeout of its workload has passed.
#[tokio::test(start_paused = true)]
async fn those_that_never_start_hold_up_the_others_of_their_namespace_for_a_minute() {
    let store = Store::with([]);
    for number in 0..8 {
        let mut resource = intercepted_sleeper(&format!("r{number}"), number);
        resource.resource_readiness_timeout = (number == 7).then_some(20 * SECOND);
        store.put(resource);
        store.inner().never_up.insert(id(&format!("r{number}")));
    }
    store.set(|inner| inner.start_takes = 10 * SECOND);
    let site = Site::with(&store, &[], eight_places());
    store.comes_to(|inner| inner.woken.len() == 4).await;
    let began = Instant::now();
    for (seconds, woken) in [(19, 4), (22, 5), (58, 5), (63, 8)] {
        settle(seconds * SECOND - began.elapsed()).await;
        let order = store.inner().woken.clone();
        assert_eq!(order.len(), woken, "after {seconds} s: {order:?}");
    }
    settle(60 * SECOND).await;
    assert_eq!(site.context.wakes.under_way(), 0);
}

#[tokio::test(start_paused = true)]
async fn those_that_never_start_do_not_hold_up_another_namespace() {
    let (stuck, other) = (Store::with([]), Store::with([]));
    for number in 0..20 {
        stuck.put(intercepted_sleeper(&format!("r{number}"), number));
        stuck.inner().never_up.insert(id(&format!("r{number}")));
        other.put(intercepted_sleeper(&format!("r{number}"), number));
    }
    for store in [&stuck, &other] {
        store.set(|inner| inner.start_takes = SECOND);
    }
    let site = Site::with(&stuck, &[], eight_places());
    let _other = start_interceptor(&other, "other", eight_places(), &site.context);
    other.comes_to(|inner| inner.woken.len() == 20).await;
    assert_eq!(stuck.inner().woken.len(), 4, "its places are taken");
}
