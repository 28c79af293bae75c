//! The first signal drains, the second ends at once. So does a process that hangs long after its grace period.

use std::{future, io, thread, time::Duration};

use rustix::process;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::exit;

/// How long after its grace period a process may take to end: plugins are stopped, and the others told.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(15);

/// Cloneable; `draining` is cancelled by the first SIGTERM or SIGINT; the second one exits the process with
/// status 143 or 130 (128 and the signal's number, as a shell reports it).
#[derive(Clone, Debug)]
pub struct Shutdown {
    /// Cancelled when the process is to drain.
    pub draining: CancellationToken,
    grace: Duration,
}

// === impl Shutdown ===

impl Shutdown {
    /// Follows the process's signals from now on. `grace`: how long draining may take.
    ///
    /// A thread of its own does it, so that a runtime whose workers all hang (in a plugin, say) still ends.
    ///
    /// # Errors
    ///
    /// The signals cannot be followed.
    pub fn on_signals(grace: Duration) -> io::Result<Self> {
        let draining = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (terminate, interrupt) = {
            let _entered = runtime.enter();
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
        };
        let follow = follow(terminate, interrupt, draining.clone(), grace);
        thread::Builder::new().name("signals".to_owned()).spawn(move || runtime.block_on(follow))?;
        Ok(Self { draining, grace })
    }

    /// How long draining may take.
    pub fn grace(&self) -> Duration {
        self.grace
    }

    /// Returns when the process has been draining for the whole grace period: what is not done by then is given up.
    pub async fn grace_over(&self) {
        self.draining.cancelled().await;
        match Instant::now().checked_add(self.grace) {
            #[expect(clippy::disallowed_methods, reason = "the end of the grace is the event")]
            Some(end) => tokio::time::sleep_until(end).await,
            None => future::pending().await,
        }
    }
}

/// For how much of the shutdown grace a DLX that Services lead to accepts new connections at most: a third is kept for the requests
/// that are held and in flight.
pub fn accepting_time(grace: Duration) -> Duration {
    grace - grace / 3
}

/// Sends SIGTERM to this process when its parent ends, or now if its parent is not `parent` (any more).
pub(crate) fn stop_with_parent(parent: i32) -> io::Result<()> {
    process::set_parent_process_death_signal(Some(process::Signal::TERM))?;
    // It may have ended before that was set.
    if process::getppid().is_none_or(|now| now.as_raw_nonzero().get() != parent) {
        process::kill_process(process::getpid(), process::Signal::TERM)?;
    }
    Ok(())
}

/// The name of the signal that ends a process, and the exit status.
type Ending = (&'static str, u8);

async fn follow(
    mut terminate: Signal,
    mut interrupt: Signal,
    draining: CancellationToken,
    grace: Duration,
) -> ! {
    let first = signalled(&mut terminate, &mut interrupt).await;
    exit::end_with(ending(first, signalled(&mut terminate, &mut interrupt), draining, grace).await)
}

async fn signalled(terminate: &mut Signal, interrupt: &mut Signal) -> Ending {
    tokio::select! {
        _ = terminate.recv() => ("SIGTERM", 143),
        _ = interrupt.recv() => ("SIGINT", 130),
    }
}

/// Drains after the first signal; returns the exit status once the process must exit at once.
async fn ending(
    (name, status): Ending,
    second: impl Future<Output = Ending>,
    draining: CancellationToken,
    grace: Duration,
) -> u8 {
    tracing::info!(signal = name, grace = %scaler_types::duration::short(grace), "stopping; a second signal stops it at once");
    draining.cancel();
    // A drained daemon exits by itself. This ends one whose thread hangs in a plugin or in a file.
    let hangs = async {
        match Instant::now().checked_add(grace).and_then(|end| end.checked_add(LAST_WORDS_TIMEOUT)) {
            #[expect(clippy::disallowed_methods, reason = "the end of the grace is the event")]
            Some(end) => tokio::time::sleep_until(end).await,
            None => future::pending().await,
        }
    };
    tokio::select! {
        (name, status) = second => {
            tracing::warn!(signal = name, status, "ending at once");
            status
        }
        () = hangs => {
            tracing::error!(status, "still running after the shutdown grace; exiting at once");
            status
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_process_that_hangs_is_ended_after_its_grace_without_another_signal() {
        let draining = CancellationToken::new();
        let (begun, grace) = (Instant::now(), Duration::from_secs(30));
        assert_eq!(ending(("SIGTERM", 143), future::pending(), draining.clone(), grace).await, 143);
        assert!(draining.is_cancelled());
        assert_eq!(begun.elapsed(), grace + LAST_WORDS_TIMEOUT);
    }
}
