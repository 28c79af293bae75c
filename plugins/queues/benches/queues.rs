//! What it costs to read 2,000 queues of each broker: time, CPU of this process and of the broker, connections.
//!
//! `cargo bench -p metric-source-queues`

#[path = "../tests/common/mod.rs"]
mod common;

use std::{fs, time::Instant};

use common::{Server, Source, send, statistic};

const QUEUES: usize = 2000;
const READS: u32 = 50;

#[tokio::main]
async fn main() {
    let (beanstalkd, redis) = (Server::beanstalkd().await, Server::redis(&[]).await);
    let folder = tempfile::tempdir().unwrap();
    let section = format!(
        "{{allowedHosts: ['127.0.0.1:{}', '127.0.0.1:{}', 'file://{}']}}",
        beanstalkd.port,
        redis.port,
        folder.path().display()
    );
    let source = Source::start(&section).await;
    // Every tenth queue holds messages: in beanstalkd a queue is there only then.
    let mut connection = beanstalkd.connect().await;
    for queue in (0..QUEUES).step_by(10) {
        common::put(&mut connection, &format!("q{queue}"), 0).await;
    }
    for queue in 0..QUEUES {
        fs::create_dir(folder.path().join(format!("q{queue}"))).unwrap();
    }
    println!("{QUEUES} queues, each read {READS} times; milliseconds per read of all:");
    for (scheme, rest, server) in
        [("beanstalkd", "q", Some(&beanstalkd)), ("redis", "0/q", Some(&redis)), ("file", "q", None)]
    {
        let uris: Vec<_> = (0..QUEUES)
            .map(|queue| match server {
                Some(server) => server.uri(scheme, &format!("{rest}{queue}")),
                None => format!("file://{}/{rest}{queue}", folder.path().display()),
            })
            .collect();
        let uris: Vec<_> = uris.iter().map(String::as_str).collect();
        assert!(source.read(&uris).await.iter().all(Result::is_ok), "{scheme}");
        let broker = || server.map_or(0, |server| cpu(server.pid()));
        let (began, own, its) = (Instant::now(), cpu(std::process::id()), broker());
        for _ in 0..READS {
            assert_eq!(source.read(&uris).await.len(), QUEUES);
        }
        let per_read = |milliseconds: u64| milliseconds as f64 / f64::from(READS);
        println!(
            "{scheme:>10}: {:.1} wall, {:.1} CPU here, {:.1} CPU in the broker",
            per_read(began.elapsed().as_millis() as u64),
            per_read(cpu(std::process::id()) - own),
            per_read(broker() - its)
        );
    }
    let total = statistic(&mut connection, "current-connections").await;
    let mut other = redis.connect().await;
    let listed = send(&mut other, "CLIENT LIST").await;
    let clients = common::body(&mut other, &listed.replace('$', "")).await.trim().lines().count();
    println!("connections of the source: {} to beanstalkd, {} to Redis", total - 1, clients - 1);
}

/// The milliseconds of CPU that a process has used.
fn cpu(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    // In hundredths of a second.
    let ticks = |field: usize| fields[field].parse::<u64>().unwrap();
    (ticks(11) + ticks(12)) * 10
}
