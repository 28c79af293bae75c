//! The signals that stop `run`.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Ctrl-C, SIGTERM, and the end of the terminal.
pub(super) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

// === impl StopSignals ===

impl StopSignals {
    /// Follows them from now on.
    pub(super) fn new() -> anyhow::Result<Self> {
        let follow = |kind| signal(kind).context("following signals");
        Ok(Self {
            interrupt: follow(SignalKind::interrupt())?,
            terminate: follow(SignalKind::terminate())?,
            hangup: follow(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
