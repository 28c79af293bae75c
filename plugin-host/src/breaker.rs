//! A circuit breaker: a plugin that does not answer is not called for a while.

use std::{sync::Mutex, time::Duration};

use tokio::time::Instant;

/// Calls in a row without an answer after which a plugin is left alone. One may be bad luck, two a hiccup of the API behind
/// it; each costs the plugin a task (0.6 to 1 KB) that may never end.
pub(crate) const LEFT_ALONE_AFTER: u32 = 3;

/// How often one call is let through to a plugin that is left alone: it is then found well at most this much later.
pub(crate) const PROBED_EVERY: Duration = Duration::from_secs(30);

/// Counts one method's calls without an answer, and says when to make none.
#[derive(Debug, Default)]
pub(crate) struct Breaker(Mutex<Count>);

#[derive(Debug, Default)]
struct Count {
    unanswered: u32,
    /// When the last call was let through while the plugin was left alone.
    probed: Option<Instant>,
}

// === impl Breaker ===

impl Breaker {
    /// Whether a call may be made now; if not, after how many without an answer.
    pub(crate) fn admit(&self) -> Result<(), u32> {
        let mut count = self.0.lock().expect("nothing panics under this lock");
        if count.unanswered < LEFT_ALONE_AFTER {
            return Ok(());
        }
        let now = Instant::now();
        if count.probed.is_some_and(|probed| now < probed + PROBED_EVERY) {
            return Err(count.unanswered);
        }
        count.probed = Some(now);
        Ok(())
    }

    /// Records the result of a call: any answer, even an error or a panic, shows that the plugin is alive.
    pub(crate) fn record(&self, answered: bool) {
        let mut count = self.0.lock().expect("nothing panics under this lock");
        if answered {
            *count = Count::default();
        } else {
            count.unanswered = count.unanswered.saturating_add(1);
            // The pause begins where the last call ended.
            count.probed = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn left_alone_and_probed_until_it_answers() {
        let breaker = Breaker::default();
        for _ in 0..LEFT_ALONE_AFTER {
            assert_eq!(breaker.admit(), Ok(()));
            breaker.record(false);
        }
        assert_eq!(breaker.admit(), Err(3));
        tokio::time::advance(PROBED_EVERY).await;
        assert_eq!(breaker.admit(), Ok(()), "one probe");
        assert_eq!(breaker.admit(), Err(3), "only one");
        tokio::time::advance(Duration::from_secs(10)).await;
        breaker.record(false);
        tokio::time::advance(PROBED_EVERY - Duration::from_secs(1)).await;
        assert_eq!(breaker.admit(), Err(4), "the pause begins when the probe has failed");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(breaker.admit(), Ok(()));
        breaker.record(true);
        assert_eq!(breaker.admit(), Ok(()));
        assert_eq!(breaker.admit(), Ok(()));
    }

    #[test]
    fn only_calls_in_a_record_count() {
        let breaker = Breaker::default();
        for _ in 0..10 {
            breaker.record(false);
            breaker.record(false);
            assert_eq!(breaker.admit(), Ok(()));
            breaker.record(true);
        }
    }
}
