//! A pace for plugins whose `changes` does not wait for a change.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// So much of its time a plugin may be ahead: one that does wait must not be late where several changes come together.
const BURST: Duration = Duration::from_secs(10);

/// How often a plugin that answers at once, again and again, is reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// Delays the calls of a plugin that answers more often than it may.
#[derive(Debug)]
pub(crate) struct Pace {
    /// When the answers so far were due, at one in each of their intervals.
    due: Instant,
    /// Since when each call has been delayed, or the last report of that.
    delayed_since: Option<Instant>,
}

// === impl Pace ===

impl Pace {
    pub(crate) fn new() -> Self {
        Self { due: Instant::now(), delayed_since: None }
    }

    /// Waits until the next call is due.
    #[expect(clippy::disallowed_methods, reason = "a plugin that does not wait is called after a pause")]
    pub(crate) fn wait(&self) -> impl Future<Output = ()> + Send + use<> {
        let early = self.due.checked_duration_since(Instant::now() + BURST);
        async move {
            if let Some(early) = early {
                sleep_until(Instant::now() + early).await;
            }
        }
    }

    /// Counts an answer, which may come once in `interval`. Whether the plugin has answered too often for a minute: to be
    /// reported.
    pub(crate) fn count_answer(&mut self, interval: Duration) -> bool {
        let now = Instant::now();
        self.due = self.due.max(now) + interval;
        if self.due <= now + BURST {
            self.delayed_since = None;
            return false;
        }
        let since = self.delayed_since.get_or_insert(now);
        let report = now >= *since + REPORT_INTERVAL;
        if report {
            *since = now;
        }
        report
    }
}

/// Reports such a plugin.
pub(crate) fn report(kind: &str, namespace: &str) {
    tracing::warn!(
        kind,
        namespace,
        "slowed down a plugin: its changes answers at once, again and again, instead of waiting for a change; ask its author"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_plugin_that_answers_at_once_is_delayed_and_reported_once_a_minute() {
        let (mut pace, began) = (Pace::new(), Instant::now());
        let mut reports = Vec::new();
        for _ in 0..100 + 1 + 10 * 125 {
            pace.wait().await;
            if pace.count_answer(Duration::from_millis(100)) {
                reports.push(began.elapsed().as_secs());
            }
        }
        assert_eq!(began.elapsed(), Duration::from_secs(125), "a burst, then one in each interval");
        assert_eq!(reports, [60, 120]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_plugin_that_waits_is_never_delayed_even_after_a_burst() {
        let mut pace = Pace::new();
        for _ in 0..100 {
            let began = Instant::now();
            for _ in 0..5 {
                pace.wait().await;
                assert!(!pace.count_answer(Duration::from_secs(1)));
            }
            assert_eq!(began.elapsed(), Duration::ZERO);
            tokio::time::advance(Duration::from_secs(5)).await;
        }
    }
}
