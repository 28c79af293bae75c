//! How often a resource was woken lately, and which window would have kept it awake.

use std::{collections::VecDeque, fmt, time::Duration};

use scaler_types::{Resource, State, duration::short};
use tokio::time::Instant;

/// More wakes than this in [`SPAN`] are too many: its window is shorter than the pauses between its requests.
const MANY: usize = 3;
const SPAN: Duration = Duration::from_secs(3600);

/// Its users are told this often at most.
const TOLD_AGAIN: Duration = Duration::from_secs(24 * 3600);

/// What this process saw of a resource's sleeps and wakes.
#[derive(Debug, Default)]
pub struct Wakes {
    /// Since when it is asleep, and for how long it had been idle by then.
    asleep: Option<(Instant, Duration)>,
    /// When it was woken in the last hour, each with how long it had been idle by then.
    recent: VecDeque<(Instant, Duration)>,
    /// When it was awake last after a wake, or seen first.
    woken: Option<Instant>,
    told: Option<Instant>,
}

/// A resource that is woken too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frequent {
    /// How many wakes there were in the last hour.
    pub wakes: usize,
    /// A window longer than this would have avoided all of them.
    pub idle: Duration,
}

// === impl Wakes ===

impl Wakes {
    /// The resource is seen so; `idle` is for how long it had been idle when it was seen last.
    pub fn follow(&mut self, now: Instant, resource: &Resource, idle: Duration) {
        if resource.replicas == 0 {
            self.slept(now, idle);
            return;
        }
        if let Some((since, idle)) = self.asleep.take() {
            self.recent.push_back((now, idle + now.duration_since(since)));
            self.woken = Some(now);
        }
        // Also one that was seen first: it may have been woken a moment ago.
        if self.woken.is_none() || resource.row.state == State::Waking {
            self.woken = Some(now);
        }
        self.recent.retain(|(at, _)| now.duration_since(*at) < SPAN);
    }

    /// It was put to sleep after it had been idle for so long.
    pub fn slept(&mut self, now: Instant, idle: Duration) {
        self.asleep.get_or_insert((now, idle));
    }

    /// When it was awake last after a wake, or seen first.
    pub fn woken(&self) -> Option<Instant> {
        self.woken
    }

    /// Whether it is woken too often.
    pub fn frequent(&self, now: Instant) -> Option<Frequent> {
        let lately = || self.recent.iter().filter(|(at, _)| now.duration_since(*at) < SPAN);
        let (wakes, idle) = (lately().count(), lately().map(|(_, idle)| *idle).max()?);
        (wakes > MANY).then_some(Frequent { wakes, idle })
    }

    /// The same where its users are to be told now.
    pub fn tell(&mut self, now: Instant) -> Option<Frequent> {
        let frequent = self.frequent(now)?;
        let due = self.told.is_none_or(|told| now.duration_since(told) >= TOLD_AGAIN);
        due.then(|| {
            self.told = Some(now);
            frequent
        })
    }
}

// === impl Frequent ===

impl Frequent {
    /// The window that would have avoided the wakes: to the next minute, or second below one.
    pub fn window(&self) -> Duration {
        let step = if self.idle < Duration::from_secs(60) { 1 } else { 60 };
        Duration::from_secs((self.idle.as_secs() / step + 1) * step)
    }
}

impl fmt::Display for Frequent {
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
    fn cycles(wakes: &mut Wakes, mut now: Instant, count: usize) -> Instant {
        let mut web = Resource::new(ResourceId::new("shop", "web"));
        for _ in 0..count {
            web.replicas = 0;
            wakes.follow(now, &web, 10 * MINUTE);
            now += MINUTE;
            web.replicas = 1;
            wakes.follow(now, &web, Duration::ZERO);
            now += 10 * MINUTE;
        }
        now
    }

    #[tokio::test]
    async fn more_than_three_wakes_in_an_hour_are_told_once_a_day_with_the_window_that_avoids_them() {
        let (mut wakes, start) = (Wakes::default(), Instant::now());
        let now = cycles(&mut wakes, start, 3);
        assert_eq!(wakes.tell(now), None);
        let now = cycles(&mut wakes, now, 1);
        let frequent = wakes.tell(now).unwrap();
        assert_eq!(
            frequent.to_string(),
            "woken 4 times in the last hour: a window of 12m would have kept it awake"
        );
        let now = cycles(&mut wakes, now, 2);
        assert_eq!(wakes.tell(now), None, "it was told today");
        assert_eq!(wakes.frequent(now).unwrap().wakes, 5, "what was more than an hour ago does not count");
        assert_eq!(wakes.frequent(now + SPAN), None);
        let now = cycles(&mut wakes, start + TOLD_AGAIN + SPAN, 4);
        assert!(wakes.tell(now).is_some());
    }

    #[tokio::test]
    async fn a_sleep_between_two_looks_counts() {
        let (mut wakes, now) = (Wakes::default(), Instant::now());
        let mut web = Resource::new(ResourceId::new("shop", "web"));
        web.replicas = 1;
        for number in 0..4 {
            wakes.slept(now, MINUTE);
            wakes.follow(now, &web, Duration::ZERO);
            assert_eq!(wakes.frequent(now).is_some(), number == 3);
        }
        assert_eq!(wakes.frequent(now).unwrap().window(), 2 * MINUTE);
    }
}
