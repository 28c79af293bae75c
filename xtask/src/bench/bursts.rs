//! What a burst of requests leaves in memory.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use tokio::time::timeout;

use super::{
    clients::{answer, connect},
    proc,
    report::Bursts,
};
use crate::{
    build::Built,
    scene::{Scene, Script, Service, free_port, process_section},
    steps::pause,
};

/// How long after a burst its memory may still be there.
const REST: Duration = Duration::from_secs(5);
/// How long the last answer of a burst may take.
const ANSWERS_TIMEOUT: Duration = Duration::from_secs(60);

/// Sends `requests` at once, `bursts` times: each on a connection of its own, and all connections stay open until the last
/// answer. The first burst is held while its service starts. `hello`: the service's program.
///
/// # Errors
///
/// A request that was not answered 200.
pub async fn measure(dlx: &Built, hello: &Path, requests: usize, bursts: usize) -> Result<Bursts> {
    let port = free_port(17_300)?;
    let program = hello.display().to_string();
    let command = [program, "--port".into(), port.to_string(), "--start-delay".into(), "4s".into()].into();
    let namespace_file = format!(
        "namespace: bench\ndlx:\n  maxHeldRequests: {requests}\n  maxHeldBytes: 8GiB\n{}",
        process_section(&[Service { name: "bursts", command, port }], Some("/"))
    );
    let script = Script {
        namespace_file,
        dlx: Some(vec!["--max-held-bytes".into(), "8GiB".into()]),
        autoscaler: false,
    };
    let scene = Scene::start(dlx, &script).await?;
    let pid = scene.pid("dlx").context("the DLX has no process id")?;
    let start_kib = proc::rss(pid)?;
    let (mut full_kib, mut after_kib) = (Vec::new(), Vec::new());
    for _ in 0..bursts {
        let mut open = Vec::with_capacity(requests);
        for number in 0..requests {
            open.push(connect(scene.addresses.entry, "bursts.localhost", number).await?);
        }
        let answers = async {
            for socket in &mut open {
                answer(socket).await?;
            }
            anyhow::Ok(())
        };
        timeout(ANSWERS_TIMEOUT, answers).await.context("a request has no answer")??;
        full_kib.push(proc::rss(pid)?);
        drop(open);
        pause(REST).await;
        after_kib.push(proc::rss(pid)?);
    }
    Ok(Bursts { requests, start_kib, full_kib, after_kib })
}
