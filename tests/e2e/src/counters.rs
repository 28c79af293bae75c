//! What the daemons themselves count of the protocol, summed over their incarnations.

use crate::{Daemon, admin::Metrics};

/// Sums over all incarnations that could still be asked before they ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Drain attempts, however they ended.
    pub drain_attempts: f64,
    /// Those of them that scaled to zero.
    pub committed: f64,
    /// Requests that came to a DLX while it saw a drain attempt.
    pub during_drain: f64,
    /// Requests that a DLX sent a second time.
    pub resent: f64,
}

// === impl Counters ===

impl Counters {
    /// Adds what a daemon counts now, before it ends.
    pub async fn add(&mut self, daemon: &Daemon) {
        self.add_from(&daemon.metrics().await);
    }

    /// Adds what a daemon has said before it ends.
    pub fn add_from(&mut self, metrics: &Metrics) {
        self.drain_attempts += metrics.sum("scaler_drain_attempts_total", &[]);
        self.committed += metrics.sum("scaler_drain_attempts_total", &["outcome=\"committed\""]);
        self.during_drain += metrics.sum("scaler_dlx_requests_during_drain_total", &[]);
        self.resent += metrics.sum("scaler_dlx_resent_requests_total", &[]);
    }
}
