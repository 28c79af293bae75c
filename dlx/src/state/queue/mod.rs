//! Held requests: dispatched in their order of arrival, within limits.

mod limits;
mod shares;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

pub(crate) use limits::{HeldTotals, HoldLimits, QueueFull, Reservation};
pub(crate) use shares::NamespaceShare;
use tokio::{sync::oneshot, time::Instant};

use crate::{answer::ErrorResponse, error_code, state::ResourceHandle};

/// The held requests of one resource.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    /// Mirrors the number of held requests, so that forwarding reads it without the lock.
    len: AtomicUsize,
    bytes: AtomicU64,
    rejected: [AtomicU64; 4],
}

#[derive(Debug, Default)]
struct Inner {
    /// By ticket: the order of arrival.
    waiting: BTreeMap<u64, oneshot::Sender<Dispatch>>,
    next: u64,
    /// Requests that were dispatched and have no response head yet.
    dispatched: usize,
    /// Since when requests are dispatched while others still wait.
    emptying: Option<Instant>,
}

/// The outcome for a held request.
#[derive(Debug)]
pub(crate) enum Dispatch {
    /// Try to enter; the permit is free again when it is dropped.
    Forward(DispatchPermit),
    /// Answer it with this.
    Refuse(Arc<ErrorResponse>),
}

/// Permits one request to be sent to its resource. Held until the head of the response has arrived.
#[derive(Debug)]
pub(crate) struct DispatchPermit(Option<Arc<ResourceHandle>>);

/// A held request's place in the queue. A drop leaves the queue.
#[derive(Debug)]
pub(crate) struct HeldRequest {
    resource: Arc<ResourceHandle>,
    ticket: u64,
    dispatch: oneshot::Receiver<Dispatch>,
    _bytes: Reservation,
}

/// Why a held request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// Too many are held already.
    TooManyHeld,
    /// Held for longer than `holdTimeout`.
    TooLong,
    /// The wake failed.
    WakeFailed,
    /// The DLX is shutting down.
    ShuttingDown,
}

/// How many requests may be dispatched and unanswered at once, `emptying` after the first was dispatched while others still
/// wait: twice as many each second. New requests queue behind, so a slow resource would otherwise stay at its first pace.
fn max_dispatched(first: usize, emptying: Duration) -> usize {
    first.saturating_mul(1_usize.checked_shl(emptying.as_secs().min(32) as u32).unwrap_or(usize::MAX))
}

// === impl Queue ===

impl Queue {
    /// Requests held now, including those that were dispatched and have not entered yet.
    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::SeqCst)
    }

    /// Whether nothing is held.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes reserved for what is held.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Counts a rejection.
    pub(crate) fn count(&self, why: Rejection) {
        self.rejected[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Rejections so far, with the name of each reason.
    pub(crate) fn rejections(&self) -> [(&'static str, u64); 4] {
        [Rejection::TooManyHeld, Rejection::TooLong, Rejection::WakeFailed, Rejection::ShuttingDown]
            .map(|why| (why.name(), self.rejected[why as usize].load(Ordering::Relaxed)))
    }

    /// Whether a request is not dispatched yet.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.lock().waiting.is_empty()
    }

    /// Queues a request; whether it is the first. The caller makes sure that the driver works on the resource.
    ///
    /// # Errors
    ///
    /// A limit is reached.
    pub(crate) fn join(
        resource: &Arc<ResourceHandle>,
        bytes: u64,
        limits: &HoldLimits,
        totals: &Arc<HeldTotals>,
    ) -> Result<(HeldRequest, bool), QueueFull> {
        let queue = &resource.queue;
        let reservation = Reservation::take(resource, bytes, limits, totals)?;
        let (sender, dispatch) = oneshot::channel();
        let mut inner = queue.lock();
        let ticket = inner.next;
        inner.next += 1;
        let first = inner.waiting.is_empty();
        inner.waiting.insert(ticket, sender);
        drop(inner);
        Ok((HeldRequest { resource: resource.clone(), ticket, dispatch, _bytes: reservation }, first))
    }

    /// The gate opened: dispatching starts at the first pace again.
    pub(crate) fn opened(&self) {
        self.lock().emptying = None;
    }

    /// Dispatches as many requests as may be; `limit` is how many may be dispatched at first.
    pub(crate) fn dispatch(resource: &Arc<ResourceHandle>, limit: usize) {
        let mut inner = resource.queue.lock();
        if inner.waiting.is_empty() {
            inner.emptying = None;
            return;
        }
        let since = *inner.emptying.get_or_insert_with(Instant::now);
        let limit = max_dispatched(limit, since.elapsed());
        while inner.dispatched < limit {
            let Some((_, sender)) = inner.waiting.pop_first() else { break };
            inner.dispatched += 1;
            if let Err(Dispatch::Forward(mut permit)) =
                sender.send(Dispatch::Forward(DispatchPermit(Some(resource.clone()))))
            {
                // Its client left; the permit must not be dropped under the lock.
                permit.0 = None;
                inner.dispatched -= 1;
            }
        }
    }

    /// Refuses all that wait.
    pub(crate) fn refuse_all(&self, refusal: &Arc<ErrorResponse>) {
        let waiting = std::mem::take(&mut self.lock().waiting);
        for sender in waiting.into_values() {
            // An error: its client left.
            let _ = sender.send(Dispatch::Refuse(refusal.clone()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl HeldRequest ===

impl HeldRequest {
    /// Waits until it is dispatched or refused.
    pub(crate) async fn wait_for_dispatch(&mut self) -> Dispatch {
        match (&mut self.dispatch).await {
            Ok(dispatch) => dispatch,
            Err(_) => Dispatch::Refuse(Arc::new(ErrorResponse::gone(&self.resource.key.id))),
        }
    }

    /// Returns to its place: it was dispatched and found the gate shut again.
    pub(crate) fn rejoin(&mut self, permit: DispatchPermit) {
        let (sender, dispatch) = oneshot::channel();
        self.dispatch = dispatch;
        self.resource.queue.lock().waiting.insert(self.ticket, sender);
        // After it is queued again: dropping the permit may dispatch it.
        drop(permit);
        self.resource.serve_held();
    }
}

impl Drop for HeldRequest {
    fn drop(&mut self) {
        self.resource.queue.lock().waiting.remove(&self.ticket);
    }
}

// === impl DispatchPermit ===

impl Drop for DispatchPermit {
    fn drop(&mut self) {
        if let Some(resource) = self.0.take() {
            resource.queue.lock().dispatched -= 1;
            resource.dispatch_held();
        }
    }
}

// === impl Rejection ===

impl Rejection {
    /// Its name in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Rejection::TooManyHeld => error_code::TOO_MANY_HELD.name(),
            Rejection::TooLong => error_code::HELD_TOO_LONG.name(),
            Rejection::WakeFailed => error_code::WAKE_FAILED.name(),
            Rejection::ShuttingDown => error_code::SHUTTING_DOWN.name(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::max_dispatched;

    #[test]
    fn a_queue_that_does_not_empty_is_dispatched_faster_and_faster() {
        let after = |millis| max_dispatched(100, Duration::from_millis(millis));
        assert_eq!([after(0), after(999), after(1000), after(2000), after(6500)], [100, 100, 200, 400, 6400]);
        assert_eq!(max_dispatched(usize::MAX, Duration::MAX), usize::MAX);
    }
}
