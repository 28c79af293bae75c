//! Learns whether an endpoint keeps a connection open after an answer.

use std::time::Duration;

use tokio::time::Instant;

/// A connection that is closed within this time of its first answer was closed because of it.
const CLOSED_BY_ANSWER: Duration = Duration::from_millis(200);
/// A connection that stayed open this long after an answer is likely to stay open for the next request.
const SETTLED_AFTER: Duration = Duration::from_millis(50);
/// After this many connections that were closed with their first answer, none is kept
const MAX_CLOSES: u8 = 3;
/// for this long; then one is kept as a test.
const KEEP_RETRY_DELAY: Duration = Duration::from_secs(60);

/// Whether an endpoint keeps connections.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct KeepAliveHabit {
    /// How many connections in a row were closed with their first answer.
    closed: u8,
    /// A connection had more than one answer since.
    keeps: bool,
    /// When a connection is kept again.
    again: Option<Instant>,
}

// === impl KeepAliveHabit ===

impl KeepAliveHabit {
    /// Notes that a connection has had `answers` answers.
    pub(crate) fn answered(&mut self, answers: u32) {
        if answers > 1 {
            *self = Self { keeps: true, ..Self::default() };
        }
    }

    /// Notes that a connection that was idle since `since`, after `answers` answers, was closed by `now`.
    pub(crate) fn closed(&mut self, answers: u32, since: Instant, now: Instant) {
        if answers > 1 || now.duration_since(since) >= CLOSED_BY_ANSWER {
            return;
        }
        self.closed = self.closed.saturating_add(1).min(MAX_CLOSES);
        if self.closed == MAX_CLOSES {
            *self = Self { closed: MAX_CLOSES, keeps: false, again: Some(now + KEEP_RETRY_DELAY) };
        }
    }

    /// Whether a connection is kept at all.
    pub(crate) fn keep(&self, now: Instant) -> bool {
        self.again.is_none_or(|again| now >= again)
    }

    /// Whether a request that cannot be sent again may use a connection that is idle since `since`.
    pub(crate) fn trusted(&self, since: Instant, now: Instant) -> bool {
        self.keeps || now.duration_since(since) >= SETTLED_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_that_close_after_each_answer_are_not_kept_and_retried_at_intervals() {
        let mut habit = KeepAliveHabit::default();
        let begin = Instant::now();
        for _ in 0..MAX_CLOSES {
            assert!(habit.keep(begin));
            habit.closed(1, begin, begin);
        }
        assert!(!habit.keep(begin + KEEP_RETRY_DELAY / 2) && habit.keep(begin + KEEP_RETRY_DELAY));
        // Closed again: not kept from then on.
        habit.closed(1, begin + KEEP_RETRY_DELAY, begin + KEEP_RETRY_DELAY);
        assert!(!habit.keep(begin + KEEP_RETRY_DELAY));
        habit.answered(2);
        assert!(habit.keep(begin + KEEP_RETRY_DELAY));
    }

    #[test]
    fn endpoints_that_close_later_or_sometimes_are_kept() {
        let mut habit = KeepAliveHabit::default();
        let begin = Instant::now();
        for _ in 0..10 {
            habit.closed(1, begin, begin + CLOSED_BY_ANSWER);
            habit.closed(10, begin, begin);
            habit.closed(1, begin, begin);
            habit.closed(1, begin, begin);
            habit.answered(2);
        }
        assert!(habit.keep(begin));
    }

    #[test]
    fn a_connection_is_trusted_when_it_stayed_open_or_others_did() {
        let mut habit = KeepAliveHabit::default();
        let begin = Instant::now();
        assert!(!habit.trusted(begin, begin) && habit.trusted(begin, begin + SETTLED_AFTER));
        habit.answered(1);
        assert!(!habit.trusted(begin, begin));
        habit.answered(2);
        assert!(habit.trusted(begin, begin));
    }
}
