//! How often a resource was woken lately, and which window would have kept it awake.

use std::{collections::VecDeque, fmt, time::Duration};

use scaler_types::{Phase, Resource, duration::short};
use tokio::time::Instant;

/// More wakes than this in [`SPAN`] are too many: its window is shorter than the pauses between its requests.
const MAX_WAKES: usize = 3;
const SPAN: Duration = Duration::from_secs(3600);

/// The shortest interval between two reports of one resource.
const REPORT_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// The sleeps and wakes of a resource that this process saw.
#[derive(Debug, Default)]
pub(crate) struct WakeHistory {
    /// Since when it is asleep, and for how long it had been idle by then.
    asleep: Option<(Instant, Duration)>,
    /// When it was woken in the last hour, each with how long it had been idle by then.
    recent: VecDeque<(Instant, Duration)>,
    /// When it was awake last after a wake, or seen first.
    woken: Option<Instant>,
    reported: Option<Instant>,
}

/// A resource that is woken too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrequentWakes {
    /// How many wakes there were in the last hour.
    pub(crate) wakes: usize,
    /// A window longer than this would have avoided all of them.
    pub(crate) idle: Duration,
}

// === impl WakeHistory ===

impl WakeHistory {
    /// The resource is seen so; `idle` is for how long it had been idle when it was seen last.
    pub(crate) fn observe(&mut self, now: Instant, resource: &Resource, idle: Duration) {
        if resource.replicas == 0 {
            self.record_sleep(now, idle);
            return;
        }
        if let Some((since, idle)) = self.asleep.take() {
            self.recent.push_back((now, idle + now.duration_since(since)));
            self.woken = Some(now);
        }
        // Also one that was seen first: it may have been woken a moment ago.
        if self.woken.is_none() || resource.record.phase == Phase::Waking {
            self.woken = Some(now);
        }
        self.recent.retain(|(at, _)| now.duration_since(*at) < SPAN);
    }

    /// Records that it was scaled to zero after it had been idle for so long.
    pub(crate) fn record_sleep(&mut self, now: Instant, idle: Duration) {
        self.asleep.get_or_insert((now, idle));
    }

    /// When it was awake last after a wake, or seen first.
    pub(crate) fn last_woken(&self) -> Option<Instant> {
        self.woken
    }

    /// Whether it is woken too often.
    pub(crate) fn frequent(&self, now: Instant) -> Option<FrequentWakes> {
        let lately = || self.recent.iter().filter(|(at, _)| now.duration_since(*at) < SPAN);
        let (wakes, idle) = (lately().count(), lately().map(|(_, idle)| *idle).max()?);
        (wakes > MAX_WAKES).then_some(FrequentWakes { wakes, idle })
    }

    /// The same if it is due to be reported.
    pub(crate) fn frequent_to_report(&mut self, now: Instant) -> Option<FrequentWakes> {
        let frequent = self.frequent(now)?;
        let due = self.reported.is_none_or(|reported| now.duration_since(reported) >= REPORT_INTERVAL);
        due.then(|| {
            self.reported = Some(now);
            frequent
        })
    }
}

// === impl FrequentWakes ===

impl FrequentWakes {
    /// The window that would have avoided the wakes: to the next minute, or second below one.
    pub(crate) fn window(&self) -> Duration {
        let step = if self.idle < Duration::from_secs(60) { 1 } else { 60 };
        Duration::from_secs((self.idle.as_secs() / step + 1) * step)
    }
}

impl fmt::Display for FrequentWakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (wakes, window) = (self.wakes, short(self.window()));
        write!(f, "woken {wakes} times in the last hour: a window of {window} would have kept it awake")
    }
}

#[cfg(test)]
mod tests {
    use scaler_types::ResourceId;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// Goes through so many sleeps of a minute, after it was idle for ten; gives when that ends.
    fn cycles(wakes: &mut WakeHistory, mut now: Instant, count: usize) -> Instant {
        let mut web = Resource::new(ResourceId::new("shop", "web"));
        for _ in 0..count {
            web.replicas = 0;
            wakes.observe(now, &web, 10 * MINUTE);
            now += MINUTE;
            web.replicas = 1;
            wakes.observe(now, &web, Duration::ZERO);
            now += 10 * MINUTE;
        }
        now
    }

    #[tokio::test]
    async fn more_than_three_wakes_in_an_hour_are_told_once_a_day_with_the_window_that_avoids_them() {
        let (mut wakes, start) = (WakeHistory::default(), Instant::now());
        let now = cycles(&mut wakes, start, 3);
        assert_eq!(wakes.frequent_to_report(now), None);
        let now = cycles(&mut wakes, now, 1);
        let frequent = wakes.frequent_to_report(now).unwrap();
        assert_eq!(
            frequent.to_string(),
            "woken 4 times in the last hour: a window of 12m would have kept it awake"
        );
        let now = cycles(&mut wakes, now, 2);
        assert_eq!(wakes.frequent_to_report(now), None, "it was told today");
        assert_eq!(wakes.frequent(now).unwrap().wakes, 5, "what was more than an hour ago does not count");
        assert_eq!(wakes.frequent(now + SPAN), None);
        let now = cycles(&mut wakes, start + REPORT_INTERVAL + SPAN, 4);
        assert!(wakes.frequent_to_report(now).is_some());
    }

    #[tokio::test]
    async fn a_sleep_between_two_looks_counts() {
        let (mut wakes, now) = (WakeHistory::default(), Instant::now());
        let mut web = Resource::new(ResourceId::new("shop", "web"));
        web.replicas = 1;
        for number in 0..4 {
            wakes.record_sleep(now, MINUTE);
            wakes.observe(now, &web, Duration::ZERO);
            assert_eq!(wakes.frequent(now).is_some(), number == 3);
        }
        assert_eq!(wakes.frequent(now).unwrap().window(), 2 * MINUTE);
    }
}
