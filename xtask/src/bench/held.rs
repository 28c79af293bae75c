//! What a held request costs: memory, and wake-ups while nothing happens.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{clients::Clients, proc, report::Held};
use crate::{
    build::Built,
    scene::{Scene, Script},
    steps::pause,
    view::views,
};

/// How long nothing happens while wake-ups are counted.
const STILL: Duration = Duration::from_secs(5);

/// Holds `requests` for a service that takes longer to start than the measurement.
///
/// # Errors
///
/// They are not all held.
pub async fn measure(dlx: &Built, requests: usize) -> Result<Held> {
    // Of kind `command`: it has no endpoint until its start is done, so that nothing is probed either.
    let namespace_file = format!(
        "namespace: bench\ndlx:\n  holdTimeout: 5m\n  resourceReadinessTimeout: 10m\n  maxHeldRequests: {requests}\n  maxHeldBytes: 8GiB\n\
         plugins:\n  command:\n    resources:\n      - {{name: late, start: exec sleep 600, stop: 'true', address: '127.0.0.1:1', hosts: [late.localhost]}}\n"
    );
    let script = Script {
        namespace_file,
        // At the end it need not wait for the service.
        dlx: Some(["--max-held-bytes", "8GiB", "--shutdown-grace", "0s"].map(str::to_owned).into()),
        autoscaler: false,
    };
    let scene = Scene::start(dlx, &script).await?;
    let pid = scene.pid("dlx").context("the DLX has no process id")?;

    // One held request starts the process; what that costs is not a held request's memory.
    let first = Clients::send(scene.addresses.entry, |_| "late.localhost".into(), 1).await?;
    held(&scene, first.sent()).await?;
    let (before, threads) = (proc::rss(pid)?, proc::threads(pid)?);
    let clients = Clients::send(scene.addresses.entry, |_| "late.localhost".into(), requests - 1).await?;
    held(&scene, requests).await?;
    let after = proc::rss(pid)?;
    let threads_after = proc::threads(pid)?;

    pause(Duration::from_secs(1)).await;
    let wakeups = proc::wakeups(pid)?;
    let cpu = proc::cpu(pid)?;
    pause(STILL).await;
    let wakeups = proc::wakeups(pid)? - wakeups;
    let cpu = (proc::cpu(pid)? - cpu).total();
    drop((first, clients));
    Ok(Held {
        requests,
        kib_per_request: after.saturating_sub(before) as f64 / (requests - 1) as f64,
        rss_before_kib: before,
        rss_after_kib: after,
        threads_before: threads,
        threads_after,
        wakeups_per_second: wakeups as f64 / STILL.as_secs_f64(),
        cpu_us_per_second: cpu as f64 / STILL.as_secs_f64(),
    })
}

async fn held(scene: &Scene, wanted: usize) -> Result<()> {
    let started = Instant::now();
    loop {
        let held = views(scene.addresses).await?.iter().map(|view| view.held).sum::<u64>();
        if held == wanted as u64 {
            return Ok(());
        }
        if started.elapsed() > Duration::from_secs(60) {
            bail!("the DLX holds {held} of {wanted} requests after a minute");
        }
        pause(Duration::from_millis(100)).await;
    }
}
