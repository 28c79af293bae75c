//! What it costs: `cargo test --release -p resource-scaler-process --test figures -- --ignored --nocapture`.
#![allow(missing_docs)]

mod common;

use std::{env, fs, net::TcpListener, time::Instant};

use common::*;
use scaler_types::{Phase, ResourceScaler as _};

/// A service that starts as fast as a process can.
#[test]
#[ignore = "a program of the next one"]
fn the_service() {
    let Ok(port) = env::var("SCALER_TEST_PORT") else { return };
    let listener = TcpListener::bind(("127.0.0.1", port.parse().unwrap())).unwrap();
    for stream in listener.incoming() {
        drop(stream);
    }
}

/// Processor time of this process so far, in milliseconds.
fn processor_ms() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let ticks = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2);
    // A hundred a second, on every Linux there is.
    ticks.map(|ticks| ticks.parse::<u64>().unwrap() * 10).sum()
}

fn percentiles(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let at = |part: f64| values[((values.len() - 1) as f64 * part) as usize];
    format!("p50 {:.1} ms, p90 {:.1} ms, max {:.1} ms", at(0.5), at(0.9), at(1.0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures, tests nothing"]
async fn figures() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let program = env::current_exe().unwrap();
    let command =
        format!("[{:?}, --exact, the_service, --ignored, --nocapture]", program.display().to_string());
    let resources = format!(
        "      - name: fast\n        command: {command}\n        port: {port}\n        env: {{SCALER_TEST_PORT: \"{port}\"}}\n"
    );
    let scaler = scaler(folder.path(), &resources).await;
    let (mut up, mut down, mut memory) = (Vec::new(), Vec::new(), 0);
    for _ in 0..200 {
        let begin = Instant::now();
        scale(&scaler, "fast", Phase::Waking).await.unwrap();
        up.push(begin.elapsed().as_secs_f64() * 1e3);
        let shim = processes_of(folder.path())
            .into_iter()
            .find(|process| process.contains("process-shim run"))
            .unwrap();
        let sizes =
            fs::read_to_string(format!("/proc/{}/smaps_rollup", shim.split_once(' ').unwrap().0)).unwrap();
        let size = |name: &str| -> u64 {
            let line = sizes.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        memory = size("Private_Dirty:") + size("Private_Clean:");
        let begin = Instant::now();
        scale(&scaler, "fast", Phase::Asleep).await.unwrap();
        down.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    println!("set_scale from zero until the port accepts: {}", percentiles(up));
    println!("set_scale to zero until nothing is left: {}", percentiles(down));
    println!("a shim's own memory: {memory} KiB");
    scaler.stop().await;

    let many: String = (0..10_000)
        .map(|n| format!("      - {{name: r{n}, command: [x], port: {}}}\n", 20_000 + n))
        .collect();
    let begin = Instant::now();
    let scaler = common::scaler(folder.path(), &many).await;
    println!("10,000 resources configured in {:.0} ms", begin.elapsed().as_secs_f64() * 1e3);
    for what in ["without a record", "with a record"] {
        let begin = processor_ms();
        let mut resources = Vec::new();
        for _ in 0..10 {
            resources = scaler.get_resources().await.unwrap();
        }
        println!("10,000 resources {what} listed in {} ms of processor time", (processor_ms() - begin) / 10);
        let begin = Instant::now();
        if what == "without a record" {
            for resource in resources {
                scaler
                    .compare_and_set(&resource.id, &resource.version, &record(Phase::Asleep))
                    .await
                    .unwrap();
            }
            println!("10,000 records written in {:.0} ms", begin.elapsed().as_secs_f64() * 1e3);
        }
    }
}
