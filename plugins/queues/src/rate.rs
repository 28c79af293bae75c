//! How many messages arrive per minute, from a counter of all that ever arrived.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    time::Duration,
};

use tokio::time::Instant;

/// How far back a rate looks.
const WINDOW: Duration = Duration::from_secs(60);
/// Counts closer together than this say little about a rate, and are not kept.
const STEP: Duration = Duration::from_secs(5);

/// The counts of each queue's last minute.
#[derive(Debug)]
pub(crate) struct Rates<Q> {
    counts: HashMap<Q, VecDeque<(Instant, u64)>>,
    last_cleaned: Option<Instant>,
}

impl<Q> Default for Rates<Q> {
    fn default() -> Self {
        Self { counts: HashMap::new(), last_cleaned: None }
    }
}

impl<Q: Eq + Hash + Clone> Rates<Q> {
    /// Notes that so many messages have ever arrived in this queue, and returns how many arrived per minute since the oldest
    /// count of the last minute. None: there is no such count yet, or it began anew.
    pub(crate) fn note(&mut self, queue: &Q, total: u64, now: Instant) -> Option<f64> {
        if self.last_cleaned.is_none_or(|cleaned| now.duration_since(cleaned) > WINDOW) {
            self.last_cleaned = Some(now);
            self.counts.retain(|_, counts| {
                counts.back().is_some_and(|(noted, _)| now.duration_since(*noted) <= WINDOW)
            });
        }
        let counts = self.counts.entry(queue.clone()).or_default();
        if counts.back().is_some_and(|(_, before)| *before > total) {
            counts.clear();
        }
        while counts.front().is_some_and(|(noted, _)| now.duration_since(*noted) > WINDOW) {
            counts.pop_front();
        }
        let rate = counts.front().and_then(|(noted, before)| {
            let seconds = now.duration_since(*noted);
            (seconds >= STEP).then(|| (total - before) as f64 * 60.0 / seconds.as_secs_f64())
        });
        if counts.back().is_none_or(|(noted, _)| now.duration_since(*noted) >= STEP) {
            counts.push_back((now, total));
        }
        rate
    }

    /// The queue is gone: its counter begins anew.
    pub(crate) fn forget(&mut self, queue: &Q) {
        self.counts.remove(queue);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_rate_is_over_the_last_minute() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        assert_eq!(rates.note(&"a", 100, start), None);
        assert_eq!(rates.note(&"a", 110, start + SECOND), None, "too short");
        assert_eq!(rates.note(&"a", 120, start + 10 * SECOND), Some(120.0));
        assert_eq!(rates.note(&"a", 160, start + 60 * SECOND), Some(60.0));
        // The first count is no longer within the minute; the second kept one is.
        assert_eq!(rates.note(&"a", 160, start + 70 * SECOND), Some(40.0));
        assert_eq!(rates.note(&"b", 1, start + 70 * SECOND), None, "another queue");
        assert_eq!(rates.note(&"a", 160, start + 300 * SECOND), None, "nothing is known of the last minute");
    }

    #[test]
    fn a_counter_that_began_anew_is_no_rate() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        rates.note(&"a", 100, start);
        assert_eq!(rates.note(&"a", 3, start + 10 * SECOND), None);
        assert_eq!(rates.note(&"a", 5, start + 20 * SECOND), Some(12.0));
    }

    #[test]
    fn queues_that_are_no_longer_read_are_forgotten() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        for queue in 0..1000 {
            rates.note(&queue, 1, start);
        }
        rates.note(&0, 1, start + 130 * SECOND);
        assert_eq!(rates.counts.len(), 1);
        for second in 0..1000 {
            rates.note(&0, 1, start + (130 + second) * SECOND);
        }
        assert!(rates.counts[&0].len() <= 14, "{}", rates.counts[&0].len());
    }
}
