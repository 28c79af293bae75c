//! Many processes woken at once: one request to each of many sleeping services.

use std::{fmt::Write as _, path::Path, time::Duration};

use anyhow::{Context, Result, bail};

use super::{
    Dlx,
    clients::Clients,
    proc::{self, Cpu},
    report::{Named, Spread, Wakes, quantile},
};
use crate::{
    build::Built,
    scene::{Scene, Script, free_port},
};

/// One storm.
struct Storm {
    /// From a request to the first byte of its answer, in order of size.
    seconds: Vec<f64>,
    cpu: Cpu,
}

/// Has each DLX wake `processes` services at once in each round, the order turned round each time. `hello`: their program.
///
/// # Errors
///
/// A request that was not answered 200.
pub async fn measure(
    dlxs: &[Dlx],
    hello: &Path,
    processes: usize,
    rounds: usize,
) -> Result<Vec<Named<Wakes>>> {
    let mut runs: Vec<(&Dlx, Vec<Storm>)> = dlxs.iter().map(|dlx| (dlx, Vec::new())).collect();
    for _ in 0..rounds {
        for (dlx, storms) in &mut runs {
            storms.push(storm(&dlx.built, hello, processes).await.context(dlx.name)?);
        }
        runs.reverse();
    }
    runs.sort_by_key(|(dlx, _)| dlx.name == super::OURS);
    let wakes = |(dlx, storms): &(&Dlx, Vec<Storm>)| {
        let seconds = |share| Spread::of(storms.iter().map(|storm| quantile(&storm.seconds, share)));
        let each = |kind: fn(Cpu) -> u64| {
            Spread::of(storms.iter().map(|storm| kind(storm.cpu) as f64 / 1000.0 / processes as f64))
        };
        let figures = Wakes {
            processes,
            p50_seconds: seconds(0.5),
            p99_seconds: seconds(0.99),
            cpu_ms_per_wake: each(Cpu::total),
            user_ms_per_wake: each(|cpu| cpu.user).median,
            system_ms_per_wake: each(|cpu| cpu.system).median,
        };
        Named { dlx: dlx.name, figures }
    };
    Ok(runs.iter().map(wakes).collect())
}

async fn storm(dlx: &Built, hello: &Path, processes: usize) -> Result<Storm> {
    let mut namespace_file = "namespace: bench\nplugins:\n  process:\n    resources:\n".to_owned();
    let (mut next, hello) = (20_000, hello.display());
    for number in 0..processes {
        let port = free_port(next)?;
        next = port + 1;
        writeln!(
            namespace_file,
            "      - {{name: service-{number}, command: [{hello}, --port, '{port}'], port: {port}, hosts: [{}], stopGracePeriod: 2s}}",
            host(number)
        )?;
    }
    let scene =
        Scene::start(dlx, &Script { namespace_file, dlx: Some(Vec::new()), autoscaler: false }).await?;
    let pid = scene.pid("dlx").context("the DLX has no process id")?;
    let before = proc::cpu(pid)?;
    let clients = Clients::send(scene.addresses.entry, host, processes).await?;
    let answers = clients.answers(Duration::from_secs(120)).await?;
    let cpu = proc::cpu(pid)? - before;
    if let Some(error) = answers.errors.first() {
        bail!("{} of {processes} requests failed; the first: {error}", answers.errors.len());
    }
    Ok(Storm { seconds: answers.times.iter().map(Duration::as_secs_f64).collect(), cpu })
}

fn host(number: usize) -> String {
    format!("service-{number}.localhost")
}
