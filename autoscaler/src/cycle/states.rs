//! The state of each resource of one cycle. No input or output: takes observations, and returns what
//! is to be done.

mod scale_state;
mod wake_history;

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use daemon::settings::Settings;
use plugin_host::Listed;
use scaler_types::{
    Nonce, Phase, Record, Resource, ResourceId, RolloutPhase, ScaleEvent, ScaleResource, TrafficMode,
    Version,
    backoff::Backoff,
    duration::short,
    protocol::{self, Gap, Reports, WakeSeen},
};
use tokio::time::Instant;

use crate::{
    decide::{Decision, Evidence, ObservedRollout, Reason, ScaleFailure, ScaleHistory, decide},
    drain::DrainOutcome,
    interception::InterceptionConditions,
    observe::{
        Activity, ActivityUnknown, DlxReports, Measurements, MetricReading, Sample, effective_metrics,
        work::Work,
    },
    plugin::protocol_seen,
};

pub(crate) use scale_state::{ScaleState, ScaleStateSince};
pub(crate) use wake_history::FrequentWakes;
use wake_history::WakeHistory;

/// The longest pause between two failed attempts to scale.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(600);

/// The states of the resources of one plugin in one namespace file, as of the last cycle.
#[derive(Debug, Default)]
pub(crate) struct ResourceStates {
    /// By identity.
    pub(crate) resources: HashMap<ResourceId, ResourceState>,
    /// How the cycles go.
    pub(crate) cycles: CycleStats,
    reports: Reports<Instant>,
    /// How many registrations have been processed, and how often they could not be read.
    registered: (usize, u64),
    /// A user wants this one scaled to zero: for the next decision.
    sleep_requested: Option<ResourceId>,
    /// Whether those with queues or metrics of their own have something to do.
    work: HashMap<ResourceId, Work>,
}

/// How the cycles go.
#[derive(Clone, Debug, Default)]
pub(crate) struct CycleStats {
    /// How many there were.
    pub(crate) count: u64,
    /// When the last one began.
    pub(crate) last: Option<Instant>,
    /// How long it took.
    pub(crate) took: Duration,
    /// Why not all resources could be observed, if so.
    pub(crate) error: Option<String>,
}

/// The state of one resource.
#[derive(Debug)]
pub(crate) struct ResourceState {
    /// As the plugin lists it.
    pub(crate) resource: Resource,
    /// It could not be read yet: nothing but its name is known.
    never_read: bool,
    /// As the DLXs reported it.
    pub(crate) samples: Vec<Sample>,
    /// As another metric source reported it; none if the DLXs are the source.
    pub(crate) readings: Option<Vec<MetricReading>>,
    /// The metrics it is decided by.
    pub(crate) metrics: Vec<ScaleResource>,
    /// What was decided.
    pub(crate) decision: Decision,
    /// Since when it is decided so, for this reason.
    pub(crate) since: Instant,
    /// Asleep, awake, .. as of the last cycle.
    pub(crate) scale_state: ScaleStateSince,
    /// A drain attempt or repair of this process is running.
    pub(crate) in_progress: bool,
    /// How the last one ended, and when.
    pub(crate) last_attempt: Option<(DrainOutcome, Instant)>,
    /// Consecutive failed attempts.
    pub(crate) failure: Option<ScaleFailure>,
    /// Attempts that did not scale it to zero so far, by outcome and reason.
    pub(crate) failed_drains: BTreeMap<(&'static str, &'static str), u64>,
    /// The last thing that happened to its scale, and when this process first saw it.
    pub(crate) event: Option<(ScaleEvent, Instant)>,
    /// Since when the plugin has listed it, as this process saw it.
    listed: Instant,
    /// The refusal that was published last; `None`: nothing is refused.
    pub(crate) reported_refusal: Option<String>,
    /// The wake under way, and when this process first saw it.
    waking: Option<(Nonce, Instant)>,
    /// How often it was woken.
    pub(crate) wakes: WakeHistory,
    /// The rollout of what it runs now.
    rollout: Option<ObservedRollout>,
    cycle: u64,
}

/// The observations of one resource.
struct Observed<'a> {
    samples: Vec<Sample>,
    readings: Option<Vec<MetricReading>>,
    source: &'a DlxReports,
    conditions: InterceptionConditions,
}

/// The actions due after a cycle.
#[derive(Debug, Default)]
pub(crate) struct PlannedWork {
    /// Stale records.
    pub(crate) repairs: Vec<Repair>,
    /// Resources to scale to zero.
    pub(crate) idle: Vec<ResourceId>,
    /// Resources that cannot go to zero as things are, and why; each once, until it changes.
    pub(crate) refused: Vec<(ResourceId, String)>,
    /// Resources that are woken too often, to be reported now.
    pub(crate) frequent: Vec<(ResourceId, FrequentWakes)>,
    /// How many resources were decided on how.
    pub(crate) decisions: BTreeMap<(&'static str, &'static str), u64>,
}

/// A stale record, and its replacement.
#[derive(Clone, Debug)]
pub(crate) struct Repair {
    /// The resource.
    pub(crate) id: ResourceId,
    /// The version that must still stand.
    pub(crate) expected: Version,
    /// The record to write.
    pub(crate) record: Record,
    /// It was scaled up manually while asleep.
    pub(crate) scaled_manually: bool,
}

// === impl ResourceStates ===

impl ResourceStates {
    /// A cycle saw `listed` and `activity`.
    pub(crate) fn observe(
        &mut self,
        now: Instant,
        listed: Listed<Vec<Resource>>,
        activity: Activity,
        conditions: InterceptionConditions,
        settings: &Settings,
    ) -> PlannedWork {
        self.cycles.count += 1;
        let Activity { source, samples, readings } = activity;
        // Beside another source what a DLX had counted decides nothing.
        if readings.is_none() {
            self.record_members(now, &source);
        }
        let mut work = PlannedWork::default();
        let mut readings = readings.map(Vec::into_iter);
        let Listed { readable, unreadable } = listed;
        for (resource, samples) in readable.into_iter().zip(samples) {
            let readings = readings.as_mut().map(|readings| readings.next().unwrap_or_default());
            let observed = Observed { samples, readings, source: &source, conditions };
            self.observe_resource(now, resource, observed, settings, &mut work);
        }
        self.keep_unreadable(now, &Listed { readable: (), unreadable }, &mut work);
        let cycle = self.cycles.count;
        self.resources.retain(|_, state| state.cycle == cycle);
        work
    }

    /// Keeps the last known state of what is listed and cannot be read, and has nothing done by it: it may be out of date.
    fn keep_unreadable(&mut self, now: Instant, listed: &Listed<()>, work: &mut PlannedWork) {
        for id in listed.unreadable.iter().filter_map(|unreadable| unreadable.id.as_ref()) {
            self.resources.entry(id.clone()).or_insert_with(|| {
                let never = ResourceState::new(now, Resource::new(id.clone()));
                ResourceState { never_read: true, ..never }
            });
        }
        let (cycle, why_unreadable) = (self.cycles.count, listed.why_unreadable());
        for (id, state) in self.resources.iter_mut().filter(|(_, state)| state.cycle != cycle) {
            let Some(why) = why_unreadable(id) else { continue };
            state.cycle = cycle;
            (state.samples, state.readings) = (Vec::new(), None);
            state.set_decision(now, Decision::Keep(Reason::Unreadable(why.into())));
            *work.decisions.entry((state.decision.name(), state.decision.code())).or_default() += 1;
        }
    }

    /// Sets whether the resources with queues or metrics of their own have something to do, for the next observation.
    pub(crate) fn set_work(&mut self, work: HashMap<ResourceId, Work>) {
        self.work = work;
    }

    /// A user wants this one scaled to zero: its windows, thresholds, events and failures do not count in the next decision.
    pub(crate) fn request_sleep(&mut self, id: Option<ResourceId>) {
        self.sleep_requested = id;
    }

    /// The members were read: what one that is gone had counted is known by its last report, or not at all.
    fn record_members(&mut self, now: Instant, source: &DlxReports) {
        if matches!(source.unknown, Some(ActivityUnknown::SourceFailed(_))) {
            return;
        }
        let (noted, lost) = self.registered;
        let DlxReports { members, reported, registered, .. } = source;
        if registered.unknown && self.reports.complete_since().is_none() {
            // It follows them, as a new leader, from later on.
            return;
        }
        let seen = registered.names.iter().skip(noted).cloned();
        let before = self.reports.complete_since().map(|(since, _)| since);
        self.reports.read(now, members.iter().cloned().collect(), seen, |gone| {
            reported.iter().any(|reported| **reported == *gone)
        });
        if registered.unknown || registered.lost > lost {
            self.reports.unseen(now);
        }
        self.registered = (registered.names.len(), registered.lost);
        if let Some((since, Gap::Left(member))) = self.reports.complete_since()
            && before != Some(since)
        {
            tracing::info!(%member, "DLX left without a last report; scaling nothing to zero for a window");
        }
    }

    /// Tests that are not about it know all that the DLXs did for a day.
    #[cfg(test)]
    pub(crate) fn with_complete_reports(now: Instant) -> Self {
        let mut states = Self::default();
        states.reports.read(now - Duration::from_secs(86_400), Default::default(), [], |_| true);
        states
    }

    fn observe_resource(
        &mut self,
        now: Instant,
        resource: Resource,
        observed: Observed<'_>,
        settings: &Settings,
        work: &mut PlannedWork,
    ) {
        let cycle = self.cycles.count;
        let state = match self.resources.get_mut(&resource.id) {
            Some(state) if state.cycle == cycle => {
                tracing::warn!(resource = %resource.id, "plugin listed a resource twice; using the first");
                return;
            }
            Some(state) => {
                if std::mem::take(&mut state.never_read) {
                    *state = ResourceState::new(now, resource);
                } else {
                    state.update(now, resource);
                }
                state
            }
            None => self.resources.entry(resource.id.clone()).or_insert(ResourceState::new(now, resource)),
        };
        state.cycle = cycle;
        (state.samples, state.readings) = (observed.samples, observed.readings);
        let sleep_requested = self.sleep_requested.as_ref() == Some(&state.resource.id);
        state.resource.sleep_now |= sleep_requested;
        let failure = state.failure.clone().filter(|_| !sleep_requested);
        let gap =
            self.reports.complete_since().map_or((now, Gap::NewLeader), |(since, gap)| (since, gap.clone()));
        let history = ScaleHistory {
            event: state.event,
            gap: Some(gap),
            listed: Some(state.listed),
            failure,
            woken: state.wakes.last_woken(),
            rollout: state.rollout.clone(),
        };
        let metrics = effective_metrics(&state.resource, settings);
        if state.metrics != metrics {
            state.metrics = metrics.to_vec();
        }
        let measure = state.readings.as_deref().map_or(Measurements::Samples, Measurements::Readings);
        let Observed { source, conditions, .. } = observed;
        let work_known = self.work.get(&state.resource.id);
        let evidence = Evidence { source, samples: &state.samples, measure, conditions, work: work_known };
        state.set_decision(now, decide(now, &state.resource, metrics, evidence, &history));
        let refused = state.decision.refusal();
        if refused != state.reported_refusal {
            work.refused
                .extend(refused.clone().map(|_| (state.resource.id.clone(), state.decision.to_string())));
            state.reported_refusal = refused;
        }
        if let Some(frequent) = state.wakes.frequent_to_report(now) {
            work.frequent.push((state.resource.id.clone(), frequent));
        }
        *work.decisions.entry((state.decision.name(), state.decision.code())).or_default() += 1;
        if state.in_progress {
            return;
        }
        if let Some(record) = state.find_repair(now, settings.resource_readiness_timeout) {
            let (id, expected) = (state.resource.id.clone(), state.resource.version.clone());
            let scaled_manually = state.resource.record.phase == Phase::Asleep && state.resource.replicas > 0;
            work.repairs.push(Repair { id, expected, record, scaled_manually });
        } else if let Decision::ScaleToZero(_) = state.decision {
            work.idle.push(state.resource.id.clone());
        }
    }

    /// Begins an attempt; `None` if the resource is gone or the decision has changed.
    pub(crate) fn begin_attempt(&mut self, id: &ResourceId) -> Option<(Resource, String)> {
        let state = self.resources.get_mut(id).filter(|state| !state.in_progress)?;
        let Decision::ScaleToZero(idle) = &state.decision else { return None };
        state.in_progress = true;
        Some((state.resource.clone(), idle.to_string()))
    }

    /// Ends an attempt; returns the failures so far.
    pub(crate) fn end_attempt(
        &mut self,
        id: &ResourceId,
        now: Instant,
        end: &DrainOutcome,
        interval: Duration,
    ) -> Option<&ScaleFailure> {
        let state = self.resources.get_mut(id)?;
        state.in_progress = false;
        state.last_attempt = Some((end.clone(), now));
        if *end != DrainOutcome::Committed {
            *state.failed_drains.entry((end.name(), end.code())).or_default() += 1;
        }
        match end {
            DrainOutcome::Committed => {
                state.failure = None;
                let idle = state.idle();
                state.wakes.record_sleep(now, idle);
            }
            // Says nothing about whether a scale would work now.
            DrainOutcome::Reverted(_) => {}
            DrainOutcome::Failed(reason) => {
                let attempts = state.failure.as_ref().map_or(0, |failure| failure.attempts).saturating_add(1);
                state.failure = Some(ScaleFailure {
                    attempts,
                    reason: reason.clone(),
                    until: now + retry_pause(interval, attempts),
                });
            }
        }
        state.failure.as_ref()
    }

    /// A repair begins or has ended.
    pub(crate) fn set_in_progress(&mut self, id: &ResourceId, in_progress: bool) {
        if let Some(state) = self.resources.get_mut(id) {
            state.in_progress = in_progress;
        }
    }
}

/// One interval, then two, four, and so on.
fn retry_pause(interval: Duration, attempts: u32) -> Duration {
    Backoff::new(interval, MAX_RETRY_PAUSE).pause_after(attempts)
}

// === impl ResourceState ===

impl ResourceState {
    fn new(now: Instant, resource: Resource) -> Self {
        let mut wakes = WakeHistory::default();
        wakes.observe(now, &resource, Duration::ZERO);
        Self {
            wakes,
            event: resource.last_scale_event.map(|event| (event, now)),
            listed: now,
            reported_refusal: None,
            waking: wake_nonce(&resource).map(|nonce| (nonce, now)),
            rollout: ObservedRollout::observe(None, now, &resource, false),
            scale_state: ScaleStateSince::first(now, &resource),
            resource,
            never_read: false,
            samples: Vec::new(),
            readings: None,
            metrics: Vec::new(),
            decision: Decision::Keep(Reason::NoMetrics),
            since: now,
            in_progress: false,
            last_attempt: None,
            failure: None,
            failed_drains: BTreeMap::new(),
            cycle: 0,
        }
    }

    /// Updates it with what the plugin lists now.
    fn update(&mut self, now: Instant, resource: Resource) {
        let event = |resource: &Resource| (resource.last_scale_event, resource.last_scale_event_time.clone());
        if event(&self.resource) != event(&resource) {
            self.event = resource.last_scale_event.map(|event| (event, now)).or(self.event);
        }
        // Also if the plugin reports no events.
        if !is_awake(&self.resource) && is_awake(&resource) {
            self.event = Some((ScaleEvent::ScaleFromZeroCompleted, now));
        }
        let before = self.waking;
        self.waking = wake_nonce(&resource).map(|nonce| match before {
            Some((since_nonce, since)) if since_nonce == nonce => (nonce, since),
            _ => (nonce, now),
        });
        let woken = self.waking.is_some() && self.waking != before;
        self.rollout = ObservedRollout::observe(self.rollout.take(), now, &resource, woken);
        if resource.record.phase == Phase::Asleep && resource.replicas == 0 {
            // The resource is asleep: earlier failures no longer count.
            self.failure = None;
        }
        let idle = self.idle();
        self.wakes.observe(now, &resource, idle);
        self.scale_state.observe(now, &resource);
        self.resource = resource;
    }

    /// For how long it had been idle when it was seen last.
    fn idle(&self) -> Duration {
        let counted = self.samples.iter().filter_map(Sample::idle_for).min();
        counted.or_else(|| self.metrics.iter().map(|metric| metric.window_size).max()).unwrap_or_default()
    }

    fn set_decision(&mut self, now: Instant, decision: Decision) {
        if (self.decision.name(), self.decision.code()) != (decision.name(), decision.code()) {
            self.since = now;
            tracing::debug!(resource = %self.resource.id, decision = decision.name(), reason = %decision, "decided");
        }
        self.decision = decision;
    }

    /// The record to write if this one is stale.
    fn find_repair(&self, now: Instant, readiness_timeout: Duration) -> Option<Record> {
        if self.resource.traffic_mode == TrafficMode::External {
            return None;
        }
        let timeout = self.resource.wake_timeout(readiness_timeout);
        // This process saw it later than it began, so a wake that is waited for has ended by then.
        let late = self.waking.is_some_and(|(_, since)| now.duration_since(since) > timeout);
        let rollout = self.resource.rollout.as_ref().filter(|_| late);
        let why = rollout.map(|rollout| format!("not ready within {}: {}", short(timeout), rollout.status));
        let wake = match rollout.map(|rollout| rollout.phase) {
            _ if !late => WakeSeen::InTime,
            Some(RolloutPhase::Complete) => WakeSeen::Ready,
            Some(RolloutPhase::Progressing | RolloutPhase::Overdue) => {
                WakeSeen::NotReady(why.as_deref().unwrap_or_default())
            }
            None => WakeSeen::Unknown,
        };
        let recovered =
            protocol::recover(&protocol_seen(&self.resource), self.in_progress, wake, Nonce::fresh());
        // Every write of the record repairs, and scaling to zero is one: a failing repair must not delay it.
        let is_known = self.resource.record.format <= Record::FORMAT;
        let repairs =
            is_known && self.resource.needs_repair && !matches!(self.decision, Decision::ScaleToZero(_));
        let mut record = recovered.or_else(|| repairs.then(|| self.resource.record.clone()))?;
        // The record says why if the last attempt failed.
        if let (Phase::Draining, Some((DrainOutcome::Failed(reason), _))) =
            (self.resource.record.phase, &self.last_attempt)
        {
            record.reason = format!("scaling to zero failed: {reason}");
        }
        Some(record)
    }
}

fn is_awake(resource: &Resource) -> bool {
    matches!(resource.record.phase, Phase::Active | Phase::Draining) && resource.replicas > 0
}

fn wake_nonce(resource: &Resource) -> Option<Nonce> {
    (resource.record.phase == Phase::Waking).then_some(resource.record.nonce)
}

#[cfg(test)]
mod tests;
