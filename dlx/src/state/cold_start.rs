//! The phases of a cold start, as this DLX saw them.

use std::{
    fmt,
    time::{Duration, Instant},
};

use scaler_types::{Progress, Resource};

/// A phase of a cold start. Each begins where the one before it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ColdStartPhase {
    /// From the first held request until the wake was ordered.
    Decide,
    /// Until this DLX sees the record that the plugin wrote.
    Patch,
    /// Until the plugin reports that the resource was scheduled.
    Scheduled,
    /// Until the plugin reports that the resource has started, or lists an endpoint without a progress.
    Started,
    /// Until an endpoint answered its probe.
    Ready,
    /// Until the head of the first answer.
    FirstByte,
}

/// When each phase of a wake of this DLX ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeline {
    began: Instant,
    ended: [Option<Instant>; 6],
}

/// How long each phase took; phases that are not over, or whose end was not seen, are missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ColdStartPhases([Option<Duration>; 6]);

/// How a held request spent its time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ColdStart {
    /// How long it was held.
    pub(crate) hold: Duration,
    /// How long the wake took; `None` if the request waited for none of this DLX's own.
    pub(crate) wake: Option<Duration>,
    /// The phases of that wake.
    pub(crate) phases: ColdStartPhases,
}

// === impl ColdStartPhase ===

impl ColdStartPhase {
    /// All phases in their order.
    pub(crate) const ALL: [Self; 6] =
        [Self::Decide, Self::Patch, Self::Scheduled, Self::Started, Self::Ready, Self::FirstByte];

    /// Its name in metrics, in `Server-Timing` and on the admin port.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Decide => "decide",
            Self::Patch => "patch",
            Self::Scheduled => "scheduled",
            Self::Started => "started",
            Self::Ready => "ready",
            Self::FirstByte => "first_byte",
        }
    }
}

// === impl Timeline ===

impl Timeline {
    /// A wake is ordered now; the first request has been held since `held_since`.
    pub(crate) fn ordered(held_since: Option<Instant>) -> Self {
        let now = Instant::now();
        let mut timeline = Self { began: held_since.unwrap_or(now), ended: [None; 6] };
        timeline.ended[ColdStartPhase::Decide as usize] = Some(now);
        timeline
    }

    /// Ends `phase` now, unless it had ended before; whether that is new.
    pub(crate) fn reach(&mut self, phase: ColdStartPhase) -> bool {
        let now = Instant::now();
        let new = self.ended[phase as usize].is_none();
        if new {
            // A phase that was not seen counts as part of the next.
            let before = ColdStartPhase::ALL.into_iter().filter(|before| *before < phase);
            let last = before.filter_map(|before| self.ended[before as usize]).max();
            for earlier in ColdStartPhase::ALL.into_iter().filter(|earlier| *earlier < phase) {
                self.ended[earlier as usize].get_or_insert(last.unwrap_or(now));
            }
            self.ended[phase as usize] = Some(now);
        }
        new
    }

    /// Notes the progress that the plugin lists, once its write is seen.
    pub(crate) fn observe(&mut self, resource: &Resource) {
        self.reach(ColdStartPhase::Patch);
        match resource.progress {
            Some(Progress::Scheduled) => drop(self.reach(ColdStartPhase::Scheduled)),
            Some(Progress::Started) => drop(self.reach(ColdStartPhase::Started)),
            None if !resource.endpoints.is_empty() => drop(self.reach(ColdStartPhase::Started)),
            None => {}
        }
    }

    /// How long each ended phase took.
    pub(crate) fn phases(&self) -> ColdStartPhases {
        let mut phases = ColdStartPhases::default();
        let mut before = self.began;
        for phase in ColdStartPhase::ALL {
            let Some(ended) = self.ended[phase as usize] else { break };
            phases.0[phase as usize] = Some(ended.saturating_duration_since(before));
            before = ended;
        }
        phases
    }

    /// When an endpoint was ready, if one was.
    pub(crate) fn ready(&self) -> Option<Instant> {
        self.ended[ColdStartPhase::Ready as usize]
    }
}

// === impl ColdStartPhases ===

impl ColdStartPhases {
    /// The duration of one phase.
    pub(crate) fn duration_of(&self, phase: ColdStartPhase) -> Option<Duration> {
        self.0[phase as usize]
    }

    /// The same with the time to the first byte.
    #[must_use]
    pub(crate) fn with_first_byte(mut self, took: Duration) -> Self {
        self.0[ColdStartPhase::FirstByte as usize] = Some(took);
        self
    }

    /// The phases that have ended, in milliseconds.
    pub(crate) fn millis(&self) -> impl Iterator<Item = (ColdStartPhase, f64)> {
        let phases = *self;
        ColdStartPhase::ALL
            .into_iter()
            .filter_map(move |phase| Some((phase, phases.duration_of(phase)?.as_secs_f64() * 1000.0)))
    }
}

impl fmt::Display for ColdStartPhases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.millis().map(|(phase, ms)| format!("{} {ms:.1} ms", phase.name()));
        f.write_str(&text.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use scaler_types::{Endpoint, Progress, Resource, ResourceId};

    use super::{ColdStartPhase, Timeline};

    #[test]
    fn a_phase_that_was_not_reported_is_part_of_the_next() {
        let mut resource = Resource::new(ResourceId::new("demo", "a"));
        let mut timeline = Timeline::ordered(None);
        timeline.observe(&resource);
        assert_eq!(timeline.phases().millis().count(), 2, "decided and written");
        resource.endpoints = vec![Endpoint::new("10.0.0.1:80", "a")];
        timeline.observe(&resource);
        let phases = timeline.phases();
        assert_eq!(phases.duration_of(ColdStartPhase::Scheduled), Some(std::time::Duration::ZERO));
        assert!(
            phases.duration_of(ColdStartPhase::Started).is_some()
                && phases.duration_of(ColdStartPhase::Ready).is_none(),
            "{phases}"
        );
    }

    #[test]
    fn a_pod_with_an_address_and_no_container_has_not_started() {
        let mut resource = Resource::new(ResourceId::new("demo", "a"));
        let mut timeline = Timeline::ordered(None);
        resource.endpoints = vec![Endpoint::new("10.0.0.1:80", "a")];
        resource.progress = Some(Progress::Scheduled);
        timeline.observe(&resource);
        assert!(timeline.phases().duration_of(ColdStartPhase::Started).is_none());
        resource.progress = Some(Progress::Started);
        timeline.observe(&resource);
        assert!(timeline.reach(ColdStartPhase::Ready) && !timeline.reach(ColdStartPhase::Ready), "once");
        assert_eq!(timeline.phases().millis().count(), 5);
    }
}
