//! What we add to a cold start: from the moment the resource would answer to the client's first byte.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::time::{ClockId, clock_gettime};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::report::{Cold, quantile};
use crate::{
    build::Built,
    scene::{Scene, Script, Service, free_port, process_section},
    steps::pause,
    view::views,
};

/// Woken in turn: while one starts, the others go back to sleep.
const SERVICES: [&str; 8] = ["one", "two", "three", "four", "five", "six", "seven", "eight"];

/// What the service does before it listens: long enough that every request is held first.
const STARTS_IN: Duration = Duration::from_millis(100);

/// A service that writes down when it was ready (started by `cargo xtask bench`)
#[derive(clap::Args)]
pub struct ColdService {
    /// Where it listens, on the loopback interface
    port: u16,
    /// The file the time goes to: nanoseconds of the monotonic clock
    ready: PathBuf,
}

/// Starts each service in turn until `starts` cold starts are measured.
///
/// # Errors
///
/// A request that failed, a service that does not go back to sleep.
pub async fn measure(built: &Built, starts: usize) -> Result<Cold> {
    let folder = tempfile::Builder::new().prefix("scaler-bench-").tempdir()?;
    let program = std::env::current_exe().context("finding this program")?.display().to_string();
    let mut services = Vec::new();
    for (at, name) in SERVICES.into_iter().enumerate() {
        let port = free_port(17_300 + 50 * u16::try_from(at)?)?;
        let ready = folder.path().join(name).display().to_string();
        services.push(Service {
            name,
            command: vec![program.clone(), "cold-service".into(), port.to_string(), ready],
            port,
        });
    }
    let namespace_file = format!(
        "namespace: bench\nscaleInterval: 100ms\ndefaults:\n  scaleResources: [{{metricName: requests, windowSize: 100ms, threshold: 0}}]\n{}",
        process_section(&services, Some("/"))
    );
    let scene =
        Scene::start(built, &Script { namespace_file, dlx: Some(Vec::new()), autoscaler: true }).await?;
    let mut added = Vec::with_capacity(starts);
    for start in 0..starts {
        let name = SERVICES[start % SERVICES.len()];
        asleep(&scene, name).await?;
        let file = folder.path().join(name);
        let _ = fs::remove_file(&file);
        let first_byte = ask(scene.addresses.entry, name).await?;
        let ready: u64 = fs::read_to_string(&file)
            .with_context(|| format!("{name} answered but did not write down when it was ready"))?
            .trim()
            .parse()?;
        added.push(first_byte.saturating_sub(ready) as f64 / 1e6);
        if (start + 1) % 25 == 0 {
            println!("    {} of {starts}", start + 1);
        }
    }
    added.sort_by(f64::total_cmp);
    let at = |share| quantile(&added, share);
    Ok(Cold { starts, p50_ms: at(0.5), p99_ms: at(0.99), max_ms: at(1.0) })
}

async fn asleep(scene: &Scene, name: &str) -> Result<()> {
    let started = Instant::now();
    loop {
        let view = views(scene.addresses).await?.into_iter().find(|view| view.name == name);
        match view {
            Some(view) if view.state == "asleep" => return Ok(()),
            view if started.elapsed() > Duration::from_secs(20) => {
                bail!("{name} is not asleep after 20 s: {view:?}")
            }
            _ => pause(Duration::from_millis(10)).await,
        }
    }
}

/// Sends one request. Returns when the answer's first byte came.
async fn ask(address: SocketAddr, name: &str) -> Result<u64> {
    let mut socket = tokio::net::TcpStream::connect(address).await?;
    socket.write_all(format!("GET / HTTP/1.1\r\nHost: {name}.localhost\r\nUser-Agent: bench/1.0\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = vec![0; 1024];
    let read = timeout(Duration::from_secs(30), socket.read(&mut answer))
        .await
        .with_context(|| format!("{name} did not answer"))??;
    let first_byte = now();
    let text = String::from_utf8_lossy(&answer[..read]).into_owned();
    ensure!(text.starts_with("HTTP/1.1 200"), "{name} answered {text}");
    Ok(first_byte)
}

/// Nanoseconds of the clock that all processes of this host share.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

// === impl ColdService ===

impl ColdService {
    /// Serves until it is ended by a signal.
    ///
    /// # Errors
    ///
    /// The port cannot be bound, or the file not written.
    #[expect(clippy::disallowed_methods, reason = "stands for the work a service does before it can listen")]
    pub fn run(&self) -> Result<()> {
        thread::sleep(STARTS_IN);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port))?;
        // From here on a readiness check passes.
        put(&self.ready, now())?;
        for socket in listener.incoming() {
            let socket = socket?;
            thread::spawn(move || serve(socket));
        }
        Ok(())
    }
}

fn put(file: &Path, time: u64) -> Result<()> {
    fs::write(file, time.to_string()).with_context(|| format!("writing {}", file.display()))
}

fn serve(mut socket: TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let mut lines = BufReader::new(socket.try_clone()?);
    let mut line = String::new();
    while lines.read_line(&mut line)? > 0 {
        if line == "\r\n" {
            socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n")?;
        }
        line.clear();
    }
    Ok(())
}
