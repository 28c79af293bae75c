//! What one request costs through each proxy while the resource is awake.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::{
    io::Errno,
    net::{RecvFlags, recv},
};

use super::{
    peers::{self, Programs},
    proc,
    report::{Spread, Warm},
};
use crate::{
    build::Built,
    http,
    scene::{Scene, Script, Service, free_port, process_section},
};

/// Keep-alive connections, as DESIGN's table has it.
const CONNECTIONS: u32 = 64;

/// The name the DLX knows the upstream by.
const HOST: &str = "upstream.localhost";

/// One proxy under measurement.
struct Measured {
    name: &'static str,
    address: SocketAddr,
    pid: u32,
    /// Microseconds of CPU per request, and requests per second, of each round.
    rounds: Vec<(f64, f64)>,
}

/// Measures every proxy in every round, the order turned round each time.
///
/// # Errors
///
/// Something does not start, or a request failed.
pub async fn measure(built: &Built, programs: &Programs, rounds: usize, seconds: u32) -> Result<Vec<Warm>> {
    let folder = tempfile::Builder::new().prefix("scaler-bench-").tempdir()?;
    let port = free_port(17_000)?;
    let upstream =
        Service { name: "upstream", command: peers::upstream(programs, folder.path(), port)?, port };
    let script = Script {
        namespace_file: format!("namespace: bench\n{}", process_section(&[upstream], Some("/"))),
        dlx: Some(Vec::new()),
        autoscaler: false,
    };
    let scene = Scene::start(built, &script).await?;
    // Wakes the upstream; from here on it stays awake.
    let woken = http::get(scene.addresses.entry, HOST, "/", Duration::from_secs(20)).await?;
    ensure!(woken.status == 200, "the DLX answered {} {}", woken.status, woken.body);

    let upstream = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let peers = peers::start(programs, folder.path(), upstream).await?;
    let mut measured: Vec<Measured> = peers
        .iter()
        .map(|peer| Measured { name: peer.name, address: peer.address, pid: peer.pid(), rounds: Vec::new() })
        .collect();
    let pid = scene.pid("dlx").context("the DLX has no process id")?;
    measured.push(Measured { name: "Scaler's DLX", address: scene.addresses.entry, pid, rounds: Vec::new() });

    for proxy in &measured {
        load(&programs.wrk, proxy.address, 1).with_context(|| format!("warming up {}", proxy.name))?;
    }
    for round in 0..rounds {
        for proxy in &mut measured {
            let before = proc::cpu(proxy.pid)?;
            let (requests, per_second) = load(&programs.wrk, proxy.address, seconds)
                .with_context(|| format!("measuring {}", proxy.name))?;
            let used = proc::cpu(proxy.pid)? - before;
            proxy.rounds.push((used as f64 / requests as f64, per_second));
        }
        measured.reverse();
        println!("    round {} of {rounds}", round + 1);
    }
    measured.sort_by_key(|proxy| proxy.name == "Scaler's DLX");
    Ok(measured.into_iter().map(Measured::result).collect())
}

/// What the kernel's part of the check costs that the DLX makes of a kept connection before it uses it (`dlx/src/proxy/upstream.rs`):
/// a look at one that is open and quiet, in nanoseconds.
///
/// # Errors
///
/// There is no connection, or it is not quiet.
pub fn check_of_kept() -> Result<f64> {
    const LOOKS: u32 = 200_000;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let stream = TcpStream::connect(listener.local_addr()?)?;
    let _other = listener.accept()?;
    let begun = Instant::now();
    for _ in 0..LOOKS {
        let seen = recv(&stream, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        ensure!(seen == Err(Errno::AGAIN), "the connection is not quiet: {seen:?}");
    }
    Ok(begun.elapsed().as_secs_f64() * 1e9 / f64::from(LOOKS))
}

/// Runs wrk. Returns how many requests were answered, and how many per second.
fn load(wrk: &Path, address: SocketAddr, seconds: u32) -> Result<(u64, f64)> {
    let mut command = Command::new(wrk);
    command.args(["-t1", &format!("-c{CONNECTIONS}"), &format!("-d{seconds}s"), "--timeout", "10s"]);
    command.args(["-H", &format!("Host: {HOST}"), &format!("http://{address}/")]);
    let output = command.output().context("starting wrk")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "wrk ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "requests failed:\n{text}");
    let requests = text.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok());
    let per_second =
        text.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:")?.trim().parse().ok());
    requests.zip(per_second).with_context(|| format!("wrk says something else than expected:\n{text}"))
}

// === impl Measured ===

impl Measured {
    fn result(self) -> Warm {
        let cpu = Spread::of(self.rounds.iter().map(|round| round.0));
        let rate = Spread::of(self.rounds.iter().map(|round| round.1));
        Warm { proxy: self.name, cpu_us_per_request: cpu, requests_per_second: rate }
    }
}
