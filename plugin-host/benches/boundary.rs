//! What a call across the plugin boundary costs, on this machine: `cargo bench -p plugin-host`. Prints, and asserts nothing.

#[path = "../tests/common/mod.rs"]
mod common;

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use common::{instance, wake};
use plugin_host::RunningPlugin;
use scaler_types::ResourceId;

const ROUNDS: usize = 5;
const WAKES: u32 = 10_000;

/// Processor time of this process so far, the plugin's threads included; the kernel counts in 1/100 s.
fn cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux tells");
    let after_name = &stat[stat.rfind(')').expect("the name is in brackets")..];
    let ticks = |field: usize| after_name.split(' ').nth(field).and_then(|ticks| ticks.parse::<u64>().ok());
    Duration::from_millis(10 * (ticks(12).expect("utime") + ticks(13).expect("stime")))
}

/// A number of /proc/self/status.
fn status(key: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find(|line| line.starts_with(key)).expect("it is there");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

/// `callers` tasks make `each` calls one after the other. Prints what one call took, in time and in processor time.
async fn calls(instance: &Arc<dyn RunningPlugin>, callers: u32, each: u32) {
    let id = ResourceId::new("demo", "bad");
    let (mut wall, mut processor) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (start, cpu_start) = (Instant::now(), cpu());
        let callers: Vec<_> = (0..callers)
            .map(|_| {
                let (instance, id) = (instance.clone(), id.clone());
                tokio::spawn(async move {
                    for _ in 0..each {
                        instance.resolve_service_name(&id).await.expect("it has an address");
                    }
                })
            })
            .collect();
        let number = callers.len() as u32 * each;
        for caller in callers {
            caller.await.expect("no caller panics");
        }
        wall.push(start.elapsed() / number);
        processor.push((cpu() - cpu_start) / number);
    }
    println!("a call, {callers} at a time: {}, processor {}", spread(wall), spread(processor));
}

/// Lists 10,001 resources.
async fn listing() {
    let many = instance("{more: 10000}").await;
    let (mut wall, mut processor) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (start, cpu_start) = (Instant::now(), cpu());
        for _ in 0..10 {
            assert_eq!(many.get_resources().await.expect("it answers").readable.len(), 10_001);
        }
        wall.push(start.elapsed() / 10);
        processor.push((cpu() - cpu_start) / 10);
    }
    println!("get_resources of 10,001 resources: {}, processor {}", spread(wall), spread(processor));
}

/// Wakes that wait in the plugin for ever.
async fn waiting() {
    let bad = instance("{set_scale: hang}").await;
    bad.get_resources().await.expect("it answers");
    let (threads, resident) = (status("Threads:"), status("VmRSS:"));
    let start = Instant::now();
    let wakes: Vec<_> = (0..WAKES)
        .map(|_| {
            let bad = bad.clone();
            tokio::spawn(async move { bad.set_scale(&wake(Duration::from_secs(3600))).await })
        })
        .collect();
    until(&*bad, &format!("waiting={WAKES} cancelled=0 calls={WAKES}")).await;
    println!(
        "{WAKES} wakes waiting after {:?}: threads {threads} before and {} with them, {} bytes resident each",
        start.elapsed(),
        status("Threads:"),
        (status("VmRSS:") - resident) * 1024 / u64::from(WAKES)
    );
    let start = Instant::now();
    for wake in wakes {
        wake.abort();
    }
    until(&*bad, &format!("waiting=0 cancelled={WAKES} calls={WAKES}")).await;
    println!("all dropped, all cancelled in the plugin after {:?}", start.elapsed());
}

async fn until(instance: &dyn RunningPlugin, expected: &str) {
    while instance.get_resources().await.expect("it answers beside them").readable.remove(0).status
        != expected
    {}
}

/// The least, the middle one and the most.
fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    format!("{:?} ({:?} to {:?})", times[times.len() / 2], times[0], times[times.len() - 1])
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let good = instance("{address: '127.0.0.1:9'}").await;
    calls(&good, 1, 20_000).await;
    calls(&good, 64, 2_000).await;
    listing().await;
    waiting().await;
}
