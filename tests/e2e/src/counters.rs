//! What the daemons themselves count of the protocol, summed over their incarnations.

use std::fmt;

use crate::{Daemon, cycles::Part};

/// Sums over all incarnations that could still be asked before they ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Fences that ended asleep.
    pub commits: f64,
    /// Fences that were given up.
    pub reverts: f64,
    /// Requests that came to a DLX while it saw a fence.
    pub in_fence: f64,
}

// === impl Counters ===

impl Counters {
    /// Adds what both count now.
    pub async fn add(&mut self, autoscaler: &Daemon, dlx: &Daemon) {
        self.add_one(Part::Autoscaler, autoscaler).await;
        self.add_one(Part::Dlx, dlx).await;
    }

    /// Adds what one counts now, before it ends.
    pub async fn add_one(&mut self, part: Part, daemon: &Daemon) {
        let metrics = daemon.metrics().await;
        match part {
            Part::Autoscaler => {
                self.commits += metrics.sum("scaler_fences_total", &["outcome=\"committed\""]);
                self.reverts += metrics.sum("scaler_fences_total", &["outcome=\"reverted\""]);
            }
            Part::Dlx => self.in_fence += metrics.sum("scaler_fenced_requests_total", &[]),
        }
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { commits, reverts, in_fence } = self;
        write!(f, "{commits} commits, {reverts} reverts, {in_fence} requests inside a fence")
    }
}
