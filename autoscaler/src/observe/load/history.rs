//! What the DLXs' reports of one resource's requests so far say of its load. Pure: takes the time as an argument.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

/// The load is averaged over this time, or over less as long as less is known.
pub(crate) const LOAD_WINDOW: Duration = Duration::from_secs(15);
/// An average over less says nothing.
const MIN_SPAN_MS: u64 = 500;
/// Reports count for so long.
pub(crate) const MAX_REPORT_AGE: Duration = Duration::from_secs(10);
/// The total time in flight wraps here.
const WRAPS_AT_BIT: u32 = 40;

/// What one DLX reported of one resource. Its times are by its own clock: only two reports of one DLX are compared.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LoadSample {
    /// Requests so far.
    pub(crate) requests: u64,
    /// Requests held.
    pub(crate) held: u64,
    /// The milliseconds that requests were in flight, added up; wraps.
    pub(crate) in_flight_ms: u64,
    /// When that was.
    pub(crate) at_ms: u64,
    /// The incarnations of its endpoints at which requests are in flight.
    pub(crate) busy: Vec<String>,
}

/// The reports of one resource.
#[derive(Clone, Debug, Default)]
pub(crate) struct LoadHistory {
    members: BTreeMap<Arc<str>, VecDeque<LoadSample>>,
    /// When the last reports were asked for.
    at: Option<Instant>,
    /// Why the load is not known, if so.
    unknown: Option<Arc<str>>,
}

/// The load of a resource, as all DLXs together see it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RequestLoad {
    /// Requests in flight on average, and those that are held.
    pub(crate) in_flight: f64,
    /// Requests per second.
    pub(crate) per_second: f64,
}

// === impl LoadHistory ===

impl LoadHistory {
    /// Every DLX was asked at that time. `unknown`: one did not answer, or does not know the resource.
    pub(crate) fn observe(
        &mut self,
        at: Instant,
        samples: Vec<(Arc<str>, LoadSample)>,
        unknown: Option<Arc<str>>,
    ) {
        (self.at, self.unknown) = (Some(at), unknown);
        if self.unknown.is_none() {
            // Of one that is gone nothing is in flight.
            self.members.retain(|member, _| samples.iter().any(|(name, _)| name == member));
        }
        for (member, sample) in samples {
            let history = self.members.entry(member).or_default();
            let restarted = history
                .back()
                .is_some_and(|last| last.at_ms > sample.at_ms || last.requests > sample.requests);
            if restarted {
                history.clear();
            }
            history.push_back(sample);
            let window = u64::try_from(LOAD_WINDOW.as_millis()).unwrap_or(u64::MAX);
            let last = history.back().map_or(0, |last| last.at_ms);
            // The first is the one from which the window is measured.
            while history.get(1).is_some_and(|second| last - second.at_ms >= window) {
                history.pop_front();
            }
        }
    }

    /// The load now.
    ///
    /// # Errors
    ///
    /// Why it is not known.
    pub(crate) fn load(&self, now: Instant) -> Result<RequestLoad, Arc<str>> {
        let at = self.at.ok_or("the DLXs have not been asked yet")?;
        if now.saturating_duration_since(at) > MAX_REPORT_AGE {
            return Err("the DLXs have not reported lately".into());
        }
        if let Some(unknown) = &self.unknown {
            return Err(unknown.clone());
        }
        let mut load = RequestLoad { in_flight: 0.0, per_second: 0.0 };
        for (member, history) in &self.members {
            let (Some(first), Some(last)) = (history.front(), history.back()) else { continue };
            let span = last.at_ms - first.at_ms;
            if span < MIN_SPAN_MS {
                return Err(format!("DLX {member} has reported only once").into());
            }
            let spent = last.in_flight_ms.wrapping_sub(first.in_flight_ms) & ((1 << WRAPS_AT_BIT) - 1);
            #[expect(clippy::cast_precision_loss, reason = "to the nearest of 2^53 is exact enough")]
            let (spent, held, requests, span) =
                (spent as f64, last.held as f64, (last.requests - first.requests) as f64, span as f64);
            load.in_flight += spent / span + held;
            load.per_second += requests / span * 1000.0;
        }
        Ok(load)
    }

    /// The incarnations of its endpoints at which requests are in flight.
    ///
    /// # Errors
    ///
    /// Why that is not known.
    pub(crate) fn busy(&self) -> Result<Vec<String>, Arc<str>> {
        if let Some(unknown) = &self.unknown {
            return Err(unknown.clone());
        }
        let last = self.members.values().filter_map(VecDeque::back);
        let mut busy: Vec<_> = last.flat_map(|sample| sample.busy.iter().cloned()).collect();
        busy.sort();
        busy.dedup();
        Ok(busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_ms: u64, requests: u64, in_flight_ms: u64, held: u64) -> LoadSample {
        let in_flight_ms = in_flight_ms & ((1 << WRAPS_AT_BIT) - 1);
        LoadSample { requests, held, in_flight_ms, at_ms, busy: Vec::new() }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn it_is_averaged_over_the_window_and_held_requests_count() {
        let (start, mut history) = (Instant::now(), LoadHistory::default());
        history.load(start).unwrap_err();
        let a: Arc<str> = "a".into();
        history.observe(start, vec![(a.clone(), sample(1000, 7, 0, 0))], None);
        assert_eq!(history.load(start), Err("DLX a has reported only once".into()));
        // 10 requests in each second, each of which takes half a second.
        for second in 1..=60_u32 {
            let (at, of) = (start + SECOND * second, u64::from(second));
            history.observe(at, vec![(a.clone(), sample(1000 + of * 1000, 7 + of * 10, of * 5000, 2))], None);
        }
        let now = start + SECOND * 60;
        assert_eq!(history.load(now), Ok(RequestLoad { in_flight: 7.0, per_second: 10.0 }));
        assert!(history.members[&a].len() <= 17);
        // It stops, and the window runs out; the sum of times wraps meanwhile.
        let wrapped = (1 << WRAPS_AT_BIT) + 1;
        history.observe(now + SECOND, vec![(a.clone(), sample(62_000, 607, wrapped, 0))], None);
        history.observe(now + SECOND * 16, vec![(a.clone(), sample(77_000, 607, wrapped, 0))], None);
        let quiet = RequestLoad { in_flight: 0.0, per_second: 0.0 };
        assert_eq!(history.load(now + SECOND * 16), Ok(quiet));
        assert_eq!(history.load(now + SECOND * 27), Err("the DLXs have not reported lately".into()));
    }

    #[test]
    fn all_dlxs_count_and_without_one_of_them_nothing_is_known() {
        let (start, mut history) = (Instant::now(), LoadHistory::default());
        let names: [Arc<str>; 2] = ["a".into(), "b".into()];
        let both = |at_ms: u64, spent: u64| {
            let busy = |pod: &str| LoadSample { busy: vec![pod.to_owned()], ..sample(at_ms, 0, spent, 0) };
            vec![(names[0].clone(), busy("pod-2")), (names[1].clone(), busy("pod-1"))]
        };
        history.observe(start, both(0, 0), None);
        history.observe(start + SECOND, both(1000, 3000), None);
        let now = start + SECOND;
        assert_eq!(history.load(now).map(|load| load.in_flight), Ok(6.0));
        assert_eq!(history.busy().unwrap(), ["pod-1", "pod-2"]);
        history.observe(now, both(2000, 6000)[..1].to_vec(), Some("no answer from DLX b".into()));
        assert_eq!(history.load(now), Err("no answer from DLX b".into()));
        history.busy().unwrap_err();
        // It is gone.
        history.observe(now, both(3000, 9000)[..1].to_vec(), None);
        assert_eq!(history.load(now).map(|load| load.in_flight), Ok(3.0));
        // Another process under its name counts from the start.
        history.observe(now, vec![(names[0].clone(), sample(5, 0, 0, 0))], None);
        history.load(now).unwrap_err();
    }
}
