//! The first signal drains, the second ends at once.

use std::{future, io, process, thread, time::Duration};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Cloneable; `draining` is cancelled by the first SIGTERM or SIGINT; the second one exits the process with
/// status 143 or 130 (128 and the signal's number, as a shell tells it).
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
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
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

async fn follow(mut terminate: Signal, mut interrupt: Signal, draining: CancellationToken, grace: Duration) {
    let mut next = async || {
        tokio::select! {
            _ = terminate.recv() => ("SIGTERM", 143),
            _ = interrupt.recv() => ("SIGINT", 130),
        }
    };
    let (name, _) = next().await;
    tracing::info!(signal = name, grace = %scaler_types::duration::short(grace), "draining; a second signal ends at once");
    draining.cancel();
    let (name, status) = next().await;
    tracing::warn!(signal = name, status, "ending at once");
    process::exit(status);
}
