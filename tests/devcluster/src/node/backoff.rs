//! Pauses that grow.

use std::time::Duration;

/// The back-off grows up to this many times its beginning: the kubelet's 10 s to 300 s.
const LONGEST_BACKOFF: u32 = 30;

/// The back-off of something that fails again and again.
pub struct Backoff {
    /// The first pause; each failure doubles it.
    pub first: Duration,
    /// Failures so far.
    pub failures: u32,
}

// === impl Backoff ===

impl Backoff {
    pub fn new(first: Duration) -> Self {
        Self { first, failures: 0 }
    }

    pub fn longest(&self) -> Duration {
        self.first * LONGEST_BACKOFF
    }

    /// How long to wait after one more failure; `None` after the first.
    pub fn next(&mut self) -> Option<Duration> {
        let earlier = self.failures;
        self.failures += 1;
        (earlier > 0).then(|| (self.first * 2_u32.saturating_pow((earlier - 1).min(16))).min(self.longest()))
    }
}
