//! What the readings of one queue so far say. Pure: takes the time as an argument.

use std::{sync::Arc, time::Duration};

use scaler_types::QueueReading;
use tokio::time::Instant;

/// A reading counts for so long, and two that are further apart prove nothing of the time between them: two poll intervals.
pub(crate) const MAX_READING_AGE: Duration = Duration::from_secs(10);

/// The readings of one queue by this process.
#[derive(Clone, Debug, Default)]
pub(crate) struct QueueHistory {
    /// The last that succeeded, and when it began.
    last: Option<(Instant, QueueReading)>,
    /// Why the last one failed; none: it succeeded.
    error: Option<Arc<str>>,
    /// Since when every reading found it empty, without a gap.
    empty_since: Option<Instant>,
}

/// Why a queue is no proof that its workers are idle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum QueueNotIdle {
    /// This process has not read it yet.
    NotRead,
    /// It was not read lately, or not well, and why.
    Unknown(Arc<str>),
    /// It holds so many messages: waiting, in flight, delayed.
    Messages([u64; 3]),
}

// === impl QueueHistory ===

impl QueueHistory {
    /// A reading that began `at` that time has ended. Whether it failed in another way than the one before, or no longer.
    pub(crate) fn observe(&mut self, at: Instant, reading: Result<QueueReading, Arc<str>>) -> bool {
        let before = self.error.clone();
        match reading {
            Ok(reading) => {
                let is_gapless = self
                    .last
                    .as_ref()
                    .is_some_and(|(last, _)| at.saturating_duration_since(*last) <= MAX_READING_AGE);
                self.empty_since = match messages(&reading) {
                    Some([0, 0, 0]) => self.empty_since.filter(|_| is_gapless).or(Some(at)),
                    _ => None,
                };
                (self.last, self.error) = (Some((at, reading)), None);
            }
            Err(error) => self.error = Some(error),
        }
        self.error != before
    }

    /// The last reading, if it is not too old.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub(crate) fn reading(&self, now: Instant) -> Result<&QueueReading, Arc<str>> {
        match &self.last {
            Some((at, reading)) if now.saturating_duration_since(*at) <= MAX_READING_AGE => Ok(reading),
            _ => Err(self.error.clone().unwrap_or_else(|| "it has not been read yet".into())),
        }
    }

    /// For how long it has been empty, without a gap between the readings.
    ///
    /// # Errors
    ///
    /// It is not, or that is not known.
    pub(crate) fn idle_for(&self, now: Instant) -> Result<Duration, QueueNotIdle> {
        if self.last.is_none() && self.error.is_none() {
            return Err(QueueNotIdle::NotRead);
        }
        let reading = self.reading(now).map_err(QueueNotIdle::Unknown)?;
        match (self.empty_since, messages(reading)) {
            (Some(since), _) => Ok(now.saturating_duration_since(since)),
            (None, Some(messages)) => Err(QueueNotIdle::Messages(messages)),
            (None, None) => Err(QueueNotIdle::Unknown("its broker does not say what waits in it".into())),
        }
    }
}

/// Waiting, in flight, delayed; none: what waits is not known. What a broker does not have at all counts as none of it; whether that
/// is enough for one that does not show work in progress is for the caller to say.
fn messages(reading: &QueueReading) -> Option<[u64; 3]> {
    Some([reading.waiting?, reading.in_flight.unwrap_or(0), reading.delayed.unwrap_or(0)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(waiting: u64, in_flight: u64, delayed: u64) -> Result<QueueReading, Arc<str>> {
        Ok(QueueReading {
            waiting: Some(waiting),
            in_flight: Some(in_flight),
            delayed: Some(delayed),
            ..QueueReading::default()
        })
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn it_is_idle_for_as_long_as_every_reading_was_empty() {
        let (start, mut queue) = (Instant::now(), QueueHistory::default());
        assert_eq!(queue.idle_for(start), Err(QueueNotIdle::NotRead), "a new leader knows nothing");
        for second in 0..=12 {
            queue.observe(start + SECOND * second * 5, holding(0, 0, 0));
        }
        assert_eq!(queue.idle_for(start + SECOND * 62), Ok(SECOND * 62));
        for (held, messages) in [([1, 0, 0], [1, 0, 0]), ([0, 2, 0], [0, 2, 0]), ([0, 0, 3], [0, 0, 3])] {
            let mut queue = queue.clone();
            queue.observe(start + SECOND * 65, holding(held[0], held[1], held[2]));
            assert_eq!(queue.idle_for(start + SECOND * 66), Err(QueueNotIdle::Messages(messages)));
            queue.observe(start + SECOND * 70, holding(0, 0, 0));
            assert_eq!(queue.idle_for(start + SECOND * 72), Ok(SECOND * 2), "the window starts anew");
        }
    }

    #[test]
    fn a_gap_between_readings_proves_nothing() {
        let (start, mut queue) = (Instant::now(), QueueHistory::default());
        queue.observe(start, holding(0, 0, 0));
        // One that fails between two that are close enough is no gap.
        queue.observe(start + SECOND * 5, Err("no answer".into()));
        queue.observe(start + SECOND * 10, holding(0, 0, 0));
        assert_eq!(queue.idle_for(start + SECOND * 11), Ok(SECOND * 11));
        queue.observe(start + SECOND * 20 + SECOND / 1000, holding(0, 0, 0));
        assert_eq!(queue.idle_for(start + SECOND * 21), Ok(SECOND - SECOND / 1000));
        // The last reading is too old.
        queue.observe(start + SECOND * 25, Err("no answer".into()));
        assert_eq!(queue.idle_for(start + SECOND * 31), Err(QueueNotIdle::Unknown("no answer".into())));
        assert_eq!(queue.reading(start + SECOND * 31), Err("no answer".into()));
    }

    #[test]
    fn what_a_broker_does_not_say_is_not_empty() {
        let (start, mut queue) = (Instant::now(), QueueHistory::default());
        queue.observe(start, Ok(QueueReading { in_flight: Some(0), ..QueueReading::default() }));
        assert!(matches!(queue.idle_for(start), Err(QueueNotIdle::Unknown(_))));
    }
}
