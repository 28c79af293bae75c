//! Ten thousand wakes wait in a plugin at once. Alone in its file: it counts the process's threads.

mod common;

use std::{fs, time::Duration};

use common::{instance, wake};
use plugin_host::RunningPlugin;

const WAKES: usize = 10_000;

fn threads() -> usize {
    fs::read_dir("/proc/self/task").expect("Linux tells").count()
}

/// Resident memory, in bytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it is there");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number of KiB") * 1024
}

/// Asks the plugin how its wakes stand until it says what is expected.
async fn until(instance: &dyn RunningPlugin, expected: &str) {
    let mut status = String::new();
    let asked = async {
        while status != expected {
            status =
                instance.get_resources().await.expect("it answers beside them").readable.remove(0).status;
        }
    };
    let asked = tokio::time::timeout(Duration::from_secs(60), asked).await;
    asked.unwrap_or_else(|_| panic!("{status} instead of {expected}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_wakes_wait_without_a_thread_each_and_are_cancelled_when_dropped() {
    let bad = instance("{set_scale: hang}").await;
    until(&*bad, "waiting=0 cancelled=0 calls=0").await;
    let (threads_before, resident_before) = (threads(), resident());

    let wakes: Vec<_> = (0..WAKES)
        .map(|_| {
            let bad = bad.clone();
            tokio::spawn(async move { bad.set_scale(&wake(Duration::from_secs(3600))).await })
        })
        .collect();
    until(&*bad, "waiting=10000 cancelled=0 calls=10000").await;
    // An idle thread of the pool for blocking work may have ended meanwhile.
    assert!(threads() <= threads_before, "{} threads before, {} now", threads_before, threads());
    let each = (resident().saturating_sub(resident_before)) / WAKES as u64;
    eprintln!(
        "{} threads, {each} bytes of resident memory for each wake, the host's own task included",
        threads()
    );

    for wake in wakes {
        wake.abort();
    }
    until(&*bad, "waiting=0 cancelled=10000 calls=10000").await;
}
