//! The last report of a DLX that stops. After its last request it stays registered until the leading autoscaler has asked it once
//! more, so that what it counted is not lost with it; a few seconds at most, and not at all where no autoscaler has ever requested activity.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// How long a DLX that is done stays registered for its last report.
pub(crate) const FINAL_REPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Far more than there are autoscalers, and far less than the admin port has connections.
const MAX_WAITING: usize = 16;

/// How far the last report is.
#[derive(Debug)]
pub(crate) struct FinalReport {
    /// Questions that may wait: each keeps a connection of the admin port.
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
    /// An autoscaler asks this DLX for its activity.
    pub(crate) fn note_request(&self) {
        self.requested.store(true, Ordering::Relaxed);
    }

    /// A place to wait for [`Self::finished`]; none where too many wait.
    pub(crate) fn wait(&self) -> Option<SemaphorePermit<'_>> {
        self.waiting.try_acquire().ok()
    }

    /// Returns when the last request has ended and no other can come.
    pub(crate) async fn finished(&self) {
        self.finished.cancelled().await;
    }

    /// The autoscaler has it. Whether it can have: the last request has ended.
    pub(crate) fn received(&self) -> bool {
        let finished = self.finished.is_cancelled();
        if finished {
            self.received.cancel();
        }
        finished
    }

    /// The last request has ended, and no other can come. Returns when the autoscaler has the last report, or after `longest`.
    pub(crate) async fn deliver(&self, longest: Duration) {
        self.finished.cancel();
        if !self.requested.load(Ordering::Relaxed) {
            return;
        }
        match timeout(longest, self.received.cancelled()).await {
            Ok(()) => tracing::info!("gave the autoscaler the last report"),
            Err(_) => tracing::warn!(
                "no autoscaler fetched the last report in time: workloads stay awake for one more window"
            ),
        }
    }
}
