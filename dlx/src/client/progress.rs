//! A client connection's current activity, since when, and which timeout applies.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{ConnectionSlots, unread::Unread};

/// How long an HTTP/2 client may take to react to GOAWAY, when nothing else is to be done on the connection and it has
/// taken its answers.
const GOAWAY_TIMEOUT: Duration = Duration::from_secs(5);

/// Timeouts of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timeouts {
    /// For the head of a request, from its first byte.
    pub(crate) head: Duration,
    /// Between two requests, and before the first.
    pub(crate) idle: Duration,
    /// To send more of a body that the resource waits for, or to take more of an answer.
    pub(crate) stall: Duration,
}

/// A connection's current activity. Times are milliseconds since it was accepted; 0 is never.
#[derive(Debug)]
pub(crate) struct ConnectionProgress {
    timeouts: Timeouts,
    slots: Arc<ConnectionSlots>,
    accepted: Instant,
    http2: AtomicBool,
    /// Requests that are held or being answered, and request bodies that are still arriving.
    requests: AtomicUsize,
    idle_since: AtomicU64,
    head_since: AtomicU64,
    /// Since when the resource waits for more of the request's body.
    body_awaited: AtomicU64,
    /// The current request has an answer.
    answered: AtomicBool,
    /// The connection was upgraded to another protocol.
    upgraded: AtomicBool,
    unread: Arc<Unread>,
    /// Since when it is being closed because it was idle.
    closing_since: AtomicU64,
    /// Notified when that begins.
    closes: Notify,
}

/// Marks its connection as busy until it is dropped.
#[derive(Debug)]
pub(crate) struct BusyGuard(Arc<ConnectionProgress>);

/// Which timeout has expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExpiredTimeout {
    /// None. To be checked again: nothing signals that a request has its answer, or that a resource begins to wait.
    Recheck,
    /// No request came in time.
    Idle,
    /// It is being closed, and nothing is left to be done on it.
    Closed,
    /// A head took too long.
    Head,
    /// The client stalled.
    Stalled,
}

// === impl ConnectionProgress ===

impl ConnectionProgress {
    /// For a connection that was just accepted.
    pub(crate) fn new(timeouts: Timeouts, slots: Arc<ConnectionSlots>) -> Arc<Self> {
        Arc::new(Self {
            timeouts,
            unread: Unread::new(slots.clone()),
            slots,
            accepted: Instant::now(),
            http2: AtomicBool::new(false),
            requests: AtomicUsize::new(0),
            idle_since: AtomicU64::new(0),
            head_since: AtomicU64::new(0),
            body_awaited: AtomicU64::new(0),
            answered: AtomicBool::new(false),
            upgraded: AtomicBool::new(false),
            closing_since: AtomicU64::new(0),
            closes: Notify::new(),
        })
    }

    /// Its timeouts.
    pub(crate) fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// The answer bytes that its client has not taken.
    pub(crate) fn unread(&self) -> &Arc<Unread> {
        &self.unread
    }

    /// It speaks HTTP/2: its bytes are frames, and each of its streams may stall alone.
    pub(crate) fn mark_http2(&self) {
        self.http2.store(true, Ordering::Relaxed);
    }

    /// A request came.
    pub(crate) fn begin(self: &Arc<Self>) -> BusyGuard {
        let busy = self.busy();
        self.head_since.store(0, Ordering::Relaxed);
        self.body_awaited.store(0, Ordering::Relaxed);
        self.answered.store(false, Ordering::Relaxed);
        busy
    }

    /// Marks the connection as busy until the guard is dropped.
    pub(crate) fn busy(self: &Arc<Self>) -> BusyGuard {
        self.requests.fetch_add(1, Ordering::Relaxed);
        BusyGuard(self.clone())
    }

    /// The request has an answer: how its body goes on does not matter to the timeouts any more.
    pub(crate) fn mark_answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// Marks the connection as upgraded to another protocol: no timeouts of HTTP apply any more.
    pub(crate) fn mark_upgraded(&self) {
        self.upgraded.store(true, Ordering::Relaxed);
    }

    /// Whether it was upgraded to another protocol.
    pub(crate) fn is_upgraded(&self) -> bool {
        self.upgraded.load(Ordering::Relaxed)
    }

    /// Notes that bytes arrived.
    pub(crate) fn note_bytes(&self) {
        if self.requests.load(Ordering::Relaxed) == 0 && self.head_since.load(Ordering::Relaxed) == 0 {
            self.head_since.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Notes whether the resource waits for more of the request's body.
    pub(crate) fn set_awaiting_body(&self, awaits: bool) {
        if !awaits {
            self.body_awaited.store(0, Ordering::Relaxed);
        } else if self.body_awaited.load(Ordering::Relaxed) == 0 {
            self.body_awaited.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Whether the resource has waited for more of the request's body for too long.
    pub(crate) fn body_stalled(&self) -> bool {
        let since = self.body_awaited.load(Ordering::Relaxed);
        since > 0 && self.now() >= since + millis(self.timeouts.stall)
    }

    /// The next deadline and the timeout that expires then. `blocked`: since when the client has taken nothing of what is
    /// written.
    pub(crate) fn deadline(&self, blocked: Option<Instant>) -> Option<(Instant, ExpiredTimeout)> {
        [self.reading(), self.writing(blocked)].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// The same for writing alone.
    pub(crate) fn writing(&self, blocked: Option<Instant>) -> Option<(Instant, ExpiredTimeout)> {
        let since = blocked.filter(|_| !self.is_upgraded())?;
        Some((since + self.timeouts.stall, ExpiredTimeout::Stalled))
    }

    fn reading(&self) -> Option<(Instant, ExpiredTimeout)> {
        if self.is_upgraded() {
            return None;
        }
        let Timeouts { head, idle, stall } = self.timeouts;
        let at = |since: u64| self.accepted + Duration::from_millis(since);
        Some(if self.requests.load(Ordering::Relaxed) == 0 {
            match self.head_since.load(Ordering::Relaxed) {
                // Parts of a head look like other frames; a client that holds one back counts as idle.
                since if since > 0 && !self.is_http2() => (at(since) + head, ExpiredTimeout::Head),
                _ => {
                    let idle_since = self.idle_since.load(Ordering::Relaxed);
                    match self.closing_since.load(Ordering::Relaxed) {
                        0 => (at(idle_since) + idle, ExpiredTimeout::Idle),
                        since => {
                            // A close would cut off what its client has not taken yet.
                            let takes = self.unread.bytes() > 0;
                            let goodbye = if takes { stall.max(GOAWAY_TIMEOUT) } else { GOAWAY_TIMEOUT };
                            (at(since.max(idle_since)) + goodbye, ExpiredTimeout::Closed)
                        }
                    }
                }
            }
        } else {
            let reads_body = !self.is_http2() && !self.answered.load(Ordering::Relaxed);
            match self.body_awaited.load(Ordering::Relaxed) {
                since if since > 0 && reads_body => (at(since) + stall, ExpiredTimeout::Stalled),
                _ => (Instant::now() + idle.min(stall), ExpiredTimeout::Recheck),
            }
        })
    }

    /// Whether it speaks HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        self.http2.load(Ordering::Relaxed)
    }

    /// Requests that it is closed because it is idle; whether that is new.
    pub(crate) fn close(&self) -> bool {
        let first = self.closing_since.compare_exchange(0, self.now(), Ordering::Relaxed, Ordering::Relaxed);
        if first.is_ok() {
            self.closes.notify_one();
        }
        first.is_ok()
    }

    /// Whether its client gets GOAWAY before it ends. A client that has never sent a request has nothing to lose.
    pub(crate) fn gets_goaway(&self) -> bool {
        self.is_http2() && self.idle_since.load(Ordering::Relaxed) > 0
    }

    /// For how long it has been closing because it was idle and has been idle; `None` if it is not closing or still busy.
    pub(crate) fn closed_for(&self) -> Option<Duration> {
        let done = self.requests.load(Ordering::Relaxed) == 0 && self.unread.bytes() == 0;
        let closing_since = self.closing_since.load(Ordering::Relaxed);
        let since = closing_since.max(self.idle_since.load(Ordering::Relaxed));
        (closing_since > 0 && done).then(|| Duration::from_millis(self.now().saturating_sub(since)))
    }

    /// Returns when it is to be closed because it is idle. Only one task may wait.
    pub(crate) async fn wait_for_close(&self) {
        self.closes.notified().await;
    }

    /// How long it has been idle; `None` while it is busy, while its client takes an answer, and while it is closing.
    pub(crate) fn idle_for(&self) -> Option<Duration> {
        let idle = self.requests.load(Ordering::SeqCst) == 0
            && !self.upgraded.load(Ordering::Relaxed)
            && self.closing_since.load(Ordering::Relaxed) == 0
            && self.unread.bytes() == 0;
        let since = Duration::from_millis(self.idle_since.load(Ordering::Relaxed));
        idle.then(|| self.accepted.elapsed().saturating_sub(since))
    }

    /// Milliseconds since it was accepted; never 0.
    fn now(&self) -> u64 {
        millis(self.accepted.elapsed()).max(1)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

// === impl BusyGuard ===

impl BusyGuard {
    /// The connection.
    pub(crate) fn progress(&self) -> &Arc<ConnectionProgress> {
        &self.0
    }
}

impl Drop for BusyGuard {
    fn drop(&mut self) {
        self.0.idle_since.store(self.0.now(), Ordering::Relaxed);
        if self.0.requests.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.slots.became_idle();
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_is_still_taking_its_answer_is_not_cut_off() {
        let progress = ConnectionProgress::new(Timeouts::default(), ConnectionSlots::new(1, usize::MAX));
        progress.mark_http2();
        progress.close();
        let unread = progress.unread().count(&Arc::default(), None, Bytes::from_static(b"the end"));
        advance(GOAWAY_TIMEOUT * 2).await;
        assert!(progress.deadline(None).is_some_and(|(at, _)| at > Instant::now()));
        drop(unread);
        assert!(
            progress
                .deadline(None)
                .is_some_and(|(at, expired)| at <= Instant::now() && expired == ExpiredTimeout::Closed)
        );
    }

    /// A request that crossed with the close has just been answered.
    #[tokio::test(start_paused = true)]
    async fn the_time_to_end_begins_when_nothing_is_left_to_do() {
        let progress = ConnectionProgress::new(Timeouts::default(), ConnectionSlots::new(1, usize::MAX));
        progress.close();
        let busy = progress.busy();
        advance(GOAWAY_TIMEOUT).await;
        assert_eq!(progress.closed_for(), None);
        drop(busy);
        assert_eq!(progress.closed_for(), Some(Duration::ZERO));
        advance(GOAWAY_TIMEOUT).await;
        assert_eq!(progress.closed_for(), Some(GOAWAY_TIMEOUT));
    }
}
