//! A small worker that is scaled by its queue, for the demo and the tests.
//!
//! The queue is a folder with one file for each job, which says how long the job takes, as in `1500ms`. SIGTERM lets it finish the
//! job that it works on; then it ends with status 0. `--help` has the flags.

mod busy;
mod jobs;
mod journal;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::Parser;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep_until},
};

use jobs::Job;
use journal::Journal;

/// Between two looks into an empty folder.
const PAUSE: Duration = Duration::from_millis(100);

/// A small worker to be scaled by its queue.
#[derive(Parser)]
#[command(version)]
struct Flags {
    /// The folder with the jobs. A job that is worked on is renamed to NAME.working, and removed when it is done.
    folder: PathBuf,
    /// How long a job takes whose file does not say, as in 500ms.
    #[arg(long, default_value = "1s", value_parser = scaler_types::duration::parse)]
    job: Duration,
    /// A port of 127.0.0.1 on which any request is answered with 200 while a job is worked on, else with 204.
    #[arg(long)]
    busy_port: Option<u16>,
    /// A file to append to: a line "PID WHAT [JOB]" for each of start, take, done, terminate.
    #[arg(long)]
    journal: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let flags = Flags::parse();
    let mut terminated = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let journal = Journal::open(flags.journal.as_deref())?;
    let is_busy = Arc::new(AtomicBool::new(false));
    if let Some(port) = flags.busy_port {
        let listener = TcpListener::bind(("127.0.0.1", port)).await;
        let listener = listener.with_context(|| format!("listening on 127.0.0.1:{port}"))?;
        tokio::spawn(busy::serve(listener, Arc::clone(&is_busy)));
    }
    loop {
        let job = Job::take(&flags.folder, flags.job)
            .with_context(|| format!("taking a job from {}", flags.folder.display()))?;
        let ends = match job {
            Some(job) => {
                is_busy.store(true, Ordering::Relaxed);
                let ends = work(job, &mut terminated, &journal).await?;
                is_busy.store(false, Ordering::Relaxed);
                ends
            }
            None => is_terminated_within(PAUSE, &mut terminated, &journal).await?,
        };
        if ends {
            return Ok(());
        }
    }
}

/// Works on a job until it is done. Whether SIGTERM came meanwhile.
async fn work(job: Job, terminated: &mut Signal, journal: &Journal) -> Result<bool> {
    journal.line("take", &job.name)?;
    let done_at = Instant::now() + job.takes;
    let ends = is_terminated_within(job.takes, terminated, journal).await?;
    wait_until(done_at).await;
    journal.line("done", &job.name)?;
    job.remove().with_context(|| format!("removing the job {}", job.name))?;
    Ok(ends)
}

async fn is_terminated_within(time: Duration, terminated: &mut Signal, journal: &Journal) -> Result<bool> {
    let is_terminated = tokio::select! {
        _ = terminated.recv() => true,
        () = wait_until(Instant::now() + time) => false,
    };
    if is_terminated {
        journal.line("terminate", "")?;
    }
    Ok(is_terminated)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a job takes the time that it says, and a folder is looked into again"
)]
async fn wait_until(time: Instant) {
    sleep_until(time).await;
}
