//! What the daemons themselves count of the protocol, summed over their incarnations.

use crate::{Daemon, cycles::Part};

/// Sums over all incarnations that could still be asked before they ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Tries to put a resource to zero, however they ended.
    pub fences: f64,
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
            Part::Autoscaler => self.fences += metrics.sum("scaler_fences_total", &[]),
            Part::Dlx => self.in_fence += metrics.sum("scaler_dlx_fenced_requests_total", &[]),
        }
    }
}
