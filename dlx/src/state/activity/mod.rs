//! The activity of a resource: requests so far and in flight, and when the last one came or ended.
//!
//! Counted without a lock. A request is counted in flight *before* it reads whether the gate is open; the gate is shut
//! *before* the count is read. Both in one total order (`SeqCst`), so that one side sees the other.

mod history;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use history::History;

use crate::clock;

/// The bits of [`Counts::in_flight`] that are a number of requests; those above are a sum of times.
const REQUEST_BITS: u32 = 24;

/// Counts of one resource.
#[derive(Debug)]
pub(crate) struct Counts {
    /// How many are in flight, and above [`REQUEST_BITS`] the sum of the times at which requests came minus the sum of those at which they
    /// ended, in milliseconds of [`clock::now_ms`]. In one number, so that a reader sees both or neither.
    in_flight: AtomicU64,
    /// In flight without keeping the resource awake.
    uncounted: AtomicU64,
    total: AtomicU64,
    /// Milliseconds of [`clock::now_ms`], plus one; 0 is never.
    last: AtomicU64,
    /// Answers by class: `[0]` are 1xx, `[4]` are 5xx.
    classes: [AtomicU64; 5],
    /// Requests that came during a drain attempt.
    during_drain: AtomicU64,
    /// This DLX's own wakes, by [`WakeOutcome`].
    wakes: [AtomicU64; 3],
    since_ms: u64,
    history: History,
}

/// How a wake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WakeOutcome {
    /// An endpoint answers.
    Awake,
    /// No endpoint answered in time.
    TimedOut,
    /// The plugin says that the resource cannot come up.
    Refused,
}

// === impl Counts ===

impl Default for Counts {
    /// Counting begins now.
    fn default() -> Self {
        Self {
            in_flight: AtomicU64::new(0),
            uncounted: AtomicU64::new(0),
            total: AtomicU64::new(0),
            last: AtomicU64::new(0),
            classes: Default::default(),
            during_drain: AtomicU64::new(0),
            wakes: Default::default(),
            since_ms: clock::now_ms(),
            history: History::default(),
        }
    }
}

impl Counts {
    /// Counts a request or a connection.
    pub(crate) fn arrived(&self) {
        let now = clock::now_ms();
        self.history.note(now, &self.total);
        self.total.fetch_add(1, Ordering::SeqCst);
        self.last.store(now + 1, Ordering::Relaxed);
    }

    /// Notes activity, such as bytes of a connection.
    pub(crate) fn touch(&self) {
        self.last.store(clock::now_ms() + 1, Ordering::Relaxed);
    }

    /// Counts a request in flight.
    pub(crate) fn enter(&self) {
        self.in_flight.fetch_add(one_at(clock::now_ms()), Ordering::SeqCst);
    }

    /// Takes back an [`enter`](Self::enter) that found the gate shut.
    pub(crate) fn retreat(&self) {
        self.in_flight.fetch_sub(one_at(clock::now_ms()), Ordering::SeqCst);
    }

    /// A request in flight ended.
    pub(crate) fn leave(&self) {
        // First: a reader that sees it gone also sees when.
        self.touch();
        self.in_flight.fetch_sub(one_at(clock::now_ms()), Ordering::SeqCst);
    }

    /// Counts a request in flight that keeps nothing awake. No drain is confirmed before it has ended.
    pub(crate) fn enter_uncounted(&self) {
        self.uncounted.fetch_add(1, Ordering::SeqCst);
    }

    /// Such a request ended, or found the gate shut.
    pub(crate) fn leave_uncounted(&self) {
        self.uncounted.fetch_sub(1, Ordering::SeqCst);
    }

    /// All requests in flight, whether they keep the resource awake or not.
    pub(crate) fn under_way(&self) -> u64 {
        self.in_flight() + self.uncounted.load(Ordering::SeqCst)
    }

    /// Requests in flight, open upgraded sockets and TCP connections included.
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::SeqCst) & ((1 << REQUEST_BITS) - 1)
    }

    /// For how many milliseconds requests were in flight so far, added up, and when that is, in milliseconds of its own clock. The
    /// difference of two is right also where the first is larger: it wraps at 2^40.
    pub(crate) fn in_flight_ms(&self) -> (u64, u64) {
        let now = clock::now_ms();
        let word = self.in_flight.load(Ordering::SeqCst);
        let (count, times) = (word & ((1 << REQUEST_BITS) - 1), word >> REQUEST_BITS);
        let spent = count.wrapping_mul(now).wrapping_sub(times);
        (spent & ((1 << (u64::BITS - REQUEST_BITS)) - 1), now)
    }

    /// Requests so far.
    pub(crate) fn total(&self) -> u64 {
        self.total.load(Ordering::SeqCst)
    }

    /// How long it has counted.
    pub(crate) fn counting(&self) -> Duration {
        clock::since(self.since_ms)
    }

    /// Time since the last activity; `None` if there never was any. Zero while something is in flight.
    pub(crate) fn idle(&self) -> Option<Duration> {
        if self.in_flight() > 0 {
            return Some(Duration::ZERO);
        }
        self.last.load(Ordering::Relaxed).checked_sub(1).map(clock::since)
    }

    /// Requests that came within the last `window`.
    pub(crate) fn within(&self, window: Duration) -> u64 {
        let last = self.last.load(Ordering::Relaxed).checked_sub(1);
        self.history.count(window, clock::now_ms(), last, self.total())
    }

    /// Counts a request that came during a drain attempt.
    pub(crate) fn met_drain(&self) {
        self.during_drain.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests that came during a drain attempt: each reverted it, or came with one that did.
    pub(crate) fn during_drain(&self) -> u64 {
        self.during_drain.load(Ordering::Relaxed)
    }

    /// Counts a wake of this DLX that ended.
    pub(crate) fn woken(&self, outcome: WakeOutcome) {
        self.wakes[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// This DLX's wakes that ended: outcome and reason as in the metrics, and how many.
    pub(crate) fn wakes(&self) -> [(&'static str, &'static str, u64); 3] {
        let count = |outcome: WakeOutcome| self.wakes[outcome as usize].load(Ordering::Relaxed);
        [
            ("awake", "", count(WakeOutcome::Awake)),
            ("failed", "timed_out", count(WakeOutcome::TimedOut)),
            ("failed", "refused_by_plugin", count(WakeOutcome::Refused)),
        ]
    }

    /// Counts an answer.
    pub(crate) fn answered(&self, status: http::StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.classes[class].fetch_add(1, Ordering::Relaxed);
    }

    /// Answers by class, `[0]` being 1xx.
    pub(crate) fn classes(&self) -> [u64; 5] {
        std::array::from_fn(|i| self.classes[i].load(Ordering::Relaxed))
    }
}

/// One request that came, or ended, at this time.
fn one_at(now_ms: u64) -> u64 {
    // The highest bits of the time are lost: the sum of times wraps.
    (now_ms << REQUEST_BITS) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_in_flight_is_that_of_all_requests_together() {
        let counts = Counts::default();
        let (before, began) = counts.in_flight_ms();
        for _ in 0..3 {
            counts.enter();
        }
        counts.leave();
        while clock::now_ms() < began + 20 {
            std::hint::spin_loop();
        }
        assert_eq!(counts.in_flight(), 2);
        let (after, now) = counts.in_flight_ms();
        // Two all the while, and each came and went within a millisecond of what the clock said.
        let spent = after.wrapping_sub(before);
        assert!(spent.abs_diff(2 * (now - began)) <= 10, "{spent} ms in {} ms", now - began);
        counts.leave();
        counts.leave();
        let (ended, _) = counts.in_flight_ms();
        assert_eq!((counts.in_flight(), counts.in_flight_ms().0), (0, ended), "it stands still");
    }
}
