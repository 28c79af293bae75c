//! The final report of a DLX that stops. After its last request it stays registered until the leading autoscaler has
//! asked it once more, so that its counts are not lost; a few seconds at most, and not at all if no autoscaler has ever
//! requested activity.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// How long a DLX stays registered for its final report.
pub(crate) const FINAL_REPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// How many autoscalers may wait: far more than there are, and far fewer than the admin port's connections.
const MAX_WAITING: usize = 16;

/// The state of the final report.
#[derive(Debug)]
pub(crate) struct FinalReport {
    /// Permits to wait: each waiting autoscaler keeps a connection of the admin port.
    waiting: Semaphore,
    requested: AtomicBool,
    finished: CancellationToken,
    received: CancellationToken,
}

// === impl FinalReport ===

impl Default for FinalReport {
    fn default() -> Self {
        Self {
            waiting: Semaphore::new(MAX_WAITING),
            requested: AtomicBool::default(),
            finished: CancellationToken::default(),
            received: CancellationToken::default(),
        }
    }
}

impl FinalReport {
    /// Notes that an autoscaler asked for the activity.
    pub(crate) fn note_request(&self) {
        self.requested.store(true, Ordering::Relaxed);
    }

    /// A permit to wait for [`Self::finished`]; `None` if too many wait.
    pub(crate) fn wait(&self) -> Option<SemaphorePermit<'_>> {
        self.waiting.try_acquire().ok()
    }

    /// Returns when the last request has ended and no other can come.
    pub(crate) async fn finished(&self) {
        self.finished.cancelled().await;
    }

    /// Notes that the autoscaler has the report; `false` before the last request has ended.
    pub(crate) fn received(&self) -> bool {
        let finished = self.finished.is_cancelled();
        if finished {
            self.received.cancel();
        }
        finished
    }

    /// Finishes the report: no request can come any more. Returns when the autoscaler has it, or after `longest`.
    pub(crate) async fn deliver(&self, longest: Duration) {
        self.finished.cancel();
        if !self.requested.load(Ordering::Relaxed) {
            return;
        }
        match timeout(longest, self.received.cancelled()).await {
            Ok(()) => tracing::info!("delivered the last report to the autoscaler"),
            Err(_) => tracing::warn!(
                "no autoscaler fetched the last report in time: workloads stay awake for one more window"
            ),
        }
    }
}
