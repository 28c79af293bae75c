//! Many requests at once to one sleeping resource.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};

use super::{clients::Clients, report::Burst};
use crate::{
    build::Built,
    scene::{Scene, Script, Service, free_port, process_section},
    view::views,
};

/// Sends `requests` to a service that starts in 2 s: all are held when it comes up. `hello`: its program.
///
/// # Errors
///
/// A request that was not answered 200, or more than one start.
pub async fn measure(dlx: &Built, hello: &Path, requests: usize) -> Result<Burst> {
    let port = free_port(17_200)?;
    let program = hello.display().to_string();
    let command = [program, "--port".into(), port.to_string(), "--start-delay".into(), "2s".into()].into();
    let service = Service { name: "burst", command, port };
    let namespace_file = format!(
        "namespace: bench\ndlx:\n  maxHeldRequests: {requests}\n  maxHeldBytes: 8GiB\n{}",
        process_section(&[service], Some("/"))
    );
    let script = Script {
        namespace_file,
        dlx: Some(vec!["--max-held-bytes".into(), "8GiB".into()]),
        autoscaler: false,
    };
    let scene = Scene::start(dlx, &script).await?;
    let started = Instant::now();
    let clients = Clients::send(scene.addresses.entry, |_| "burst.localhost".into(), requests).await?;
    let sent = started.elapsed();
    let answers = clients.answers(Duration::from_secs(60)).await?;
    let seconds = started.elapsed().as_secs_f64();
    if let Some(error) = answers.errors.first() {
        bail!("{} of {requests} requests failed; the first: {error}", answers.errors.len());
    }
    let counted = views(scene.addresses).await?.iter().map(|view| view.requests).sum::<u64>();
    ensure!(counted == requests as u64, "the DLX counted {counted} of {requests} requests");
    Ok(Burst { requests, answered: answers.times.len(), sent_in_seconds: sent.as_secs_f64(), seconds })
}
