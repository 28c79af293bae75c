//! What is believed of a resource, behind its lock.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use daemon::settings::Settings;
use scaler_types::{
    Endpoint, Nonce, Probe, Record, Resource, ResourceId, TrafficMode,
    protocol::{Gate, GateInput, GateOrder, Rules},
};

use super::{
    EndpointTarget, InterceptionGuard, WakeCause,
    cold_start::{ColdStart, ColdStartPhase, ColdStartPhases, Timeline},
};
use crate::{answer::ErrorResponse, plugin::PluginSource};

/// After a wake that cannot succeed, requests get its cause for this long; doubled each time that takes less than that to be
/// known, up to [`MAX_FAILURE_DELAY`].
const MIN_FAILURE_DELAY: Duration = Duration::from_secs(1);
const MAX_FAILURE_DELAY: Duration = Duration::from_secs(30);

/// What is believed of one resource.
#[derive(Debug)]
pub(crate) struct ResourceView {
    /// The protocol's state.
    pub(crate) gate: Gate,
    /// As last told by the plugin.
    pub(crate) resource: Resource,
    /// Who tells.
    pub(crate) source: Arc<PluginSource>,
    /// Its endpoints.
    pub(crate) listed: Vec<ListedEndpoint>,
    /// Endpoints that are listed no more, and whose idle connections are to be closed.
    pub(crate) unlisted: Vec<u64>,
    /// An endpoint from `resolve_service_name`, where the plugin lists none.
    pub(crate) resolved: Option<Endpoint>,
    /// A task works on what waits.
    pub(crate) driven: bool,
    /// Its wake waits for a place among those of this DLX.
    pub(crate) waits_for_turn: bool,
    /// The facts are to be replaced.
    pub(crate) facts_changed: bool,
    /// No plugin lists it any more.
    pub(crate) gone: bool,
    /// Its route names this DLX.
    pub(crate) interception_guard: Option<InterceptionGuard>,
    /// The nonce of the last fence that was seen.
    pub(crate) last_drain: Option<Nonce>,
    /// The last wake that could not succeed.
    pub(crate) failure: Option<WakeFailure>,
    /// The last thing that went wrong, whether or not it passed.
    pub(crate) last_error: Option<String>,
    /// Writes in a row that nobody knows the end of.
    pub(crate) lost_writes: u32,
    /// Since when requests are held, if some are.
    pub(crate) wanted: Option<Instant>,
    /// Who was the first of them, until the wake has ended.
    pub(crate) wake_cause: Option<WakeCause>,
    /// The wake that this DLX asked for and that is going on.
    waking: Option<Waking>,
    /// It came up before this DLX knew whether the wake is its own.
    unclaimed: Option<Unclaimed>,
    /// The last of this DLX's own wakes that ended well, and how long it took.
    woken: Option<(Timeline, Duration)>,
    /// When its owners were last told that too much is held.
    pub(crate) full_reported: Option<Instant>,
    /// The last cold start of a request.
    pub(crate) last_cold: Option<ColdStart>,
}

/// An endpoint, and whether it answers.
#[derive(Debug)]
pub(crate) struct ListedEndpoint {
    /// Which.
    pub(crate) target: Arc<EndpointTarget>,
    /// Requests can go there.
    pub(crate) ready: bool,
    /// Somebody finds out.
    pub(crate) probing: bool,
    /// Why it is not ready.
    pub(crate) error: Option<String>,
}

/// A wake that this DLX asked for.
#[derive(Debug)]
struct Waking {
    began: Instant,
    /// How far it came.
    timeline: Timeline,
    /// Of the record that it writes.
    nonce: Nonce,
    /// It is this DLX's own: its record was written, not that of another one that was faster.
    own: bool,
}

/// A wake that may be another DLX's.
#[derive(Debug)]
struct Unclaimed {
    cause: Option<WakeCause>,
}

/// A wake that could not succeed.
#[derive(Clone, Debug)]
pub(crate) struct WakeFailure {
    /// The cause.
    pub(crate) reason: String,
    /// Until then requests are answered with it at once.
    pub(crate) until: Instant,
    /// How long it is remembered this time.
    pub(crate) pause: Duration,
    /// When it was known.
    pub(crate) at: Instant,
    /// The record's nonce then: another one since is another try, by somebody else.
    pub(crate) nonce: Option<Nonce>,
}

// === impl ResourceView ===

impl ResourceView {
    /// Nothing is known yet.
    pub(crate) fn new(id: ResourceId, source: Arc<PluginSource>, rules: Rules) -> Self {
        Self {
            gate: Gate::new(rules),
            resource: Resource::new(id),
            source,
            listed: Vec::new(),
            unlisted: Vec::new(),
            resolved: None,
            driven: false,
            waits_for_turn: false,
            facts_changed: false,
            gone: false,
            interception_guard: None,
            last_drain: None,
            failure: None,
            last_error: None,
            lost_writes: 0,
            wanted: None,
            wake_cause: None,
            waking: None,
            unclaimed: None,
            woken: None,
            full_reported: None,
            last_cold: None,
        }
    }

    /// Takes over what the plugin told.
    pub(crate) fn apply_listing(&mut self, source: &Arc<PluginSource>, resource: Resource) {
        self.gone = false;
        let own = |resource: &Resource| {
            let deadline = resource.rollout.as_ref().and_then(|rollout| rollout.deadline);
            (resource.hold_timeout, resource.resource_readiness_timeout, deadline)
        };
        self.facts_changed |= own(&self.resource) != own(&resource);
        self.resource = resource;
        if !Arc::ptr_eq(&self.source, source) {
            self.source = source.clone();
            self.facts_changed = true;
        }
        if !self.scaled() {
            self.resolved = None;
        }
        self.list();
    }

    /// No plugin lists it any more.
    pub(crate) fn mark_gone(&mut self) {
        self.gone = true;
        self.interception_guard = None;
        self.unlisted.extend(self.listed.drain(..).map(|listed| listed.target.number));
        self.facts_changed = true;
    }

    /// The endpoint `resolve_service_name` gave.
    pub(crate) fn resolved(&mut self, address: String) {
        self.resolved = Some(Endpoint::new(address, ""));
        self.list();
    }

    /// Keeps those of the listed endpoints that are still there, as they are, and adds new ones.
    fn list(&mut self) {
        // What was ready before a sleep says nothing after it.
        let endpoints = if self.scaled() { self.resource.endpoints.as_slice() } else { &[] };
        let endpoints = if endpoints.is_empty() { self.resolved.as_slice() } else { endpoints };
        if self.listed.len() == endpoints.len()
            && self.listed.iter().zip(endpoints).all(|(listed, endpoint)| listed.target.endpoint == *endpoint)
        {
            return;
        }
        let mut before = std::mem::take(&mut self.listed);
        for endpoint in endpoints {
            let kept = before.iter().position(|listed| listed.target.endpoint == *endpoint);
            self.listed.push(match kept {
                Some(at) => before.swap_remove(at),
                None => ListedEndpoint::new(endpoint.clone()),
            });
        }
        self.unlisted.extend(before.into_iter().map(|listed| listed.target.number));
        self.facts_changed = true;
    }

    /// What holds for its requests: its own word, else its namespace file's.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        let settings = self.source.settings.load_full();
        let hold_timeout = self.resource.hold_timeout.unwrap_or(settings.hold_timeout);
        let wake_timeout = self.resource.wake_timeout(settings.resource_readiness_timeout);
        if (hold_timeout, wake_timeout) == (settings.hold_timeout, settings.resource_readiness_timeout) {
            return settings;
        }
        let mut own = Settings::clone(&settings);
        (own.hold_timeout, own.resource_readiness_timeout) = (hold_timeout, wake_timeout);
        Arc::new(own)
    }

    /// Whether it has replicas.
    pub(crate) fn scaled(&self) -> bool {
        self.gate.seen().is_some_and(|seen| seen.scaled)
    }

    /// Whether an endpoint is ready.
    pub(crate) fn is_ready(&self) -> bool {
        self.listed.iter().any(|listed| listed.ready)
    }

    /// Endpoints that are ready.
    pub(crate) fn ready(&self) -> Vec<Arc<EndpointTarget>> {
        self.listed.iter().filter(|listed| listed.ready).map(|listed| listed.target.clone()).collect()
    }

    /// Endpoints that somebody has to find out about; marked as being looked at.
    pub(crate) fn take_unprobed(&mut self) -> Vec<Arc<EndpointTarget>> {
        let unknown = self.listed.iter_mut().filter(|listed| !listed.ready && !listed.probing);
        unknown
            .map(|listed| {
                listed.probing = true;
                listed.target.clone()
            })
            .collect()
    }

    /// Whether the endpoint is still listed and not ready.
    pub(crate) fn is_awaited(&self, number: u64) -> bool {
        self.listed.iter().any(|listed| listed.target.number == number && !listed.ready)
    }

    /// The endpoint answered.
    pub(crate) fn reachable(&mut self, number: u64) {
        if let Some(listed) = self.listed.iter_mut().find(|listed| listed.target.number == number) {
            (listed.ready, listed.probing, listed.error) = (true, false, None);
            self.facts_changed = true;
        }
    }

    /// The endpoint did not answer. Whether it is listed.
    pub(crate) fn unreachable(&mut self, number: u64, reason: String) -> bool {
        let Some(listed) = self.listed.iter_mut().find(|listed| listed.target.number == number) else {
            return false;
        };
        self.facts_changed |= listed.ready;
        (listed.ready, listed.error) = (false, Some(reason));
        true
    }

    /// A probe got no answer.
    pub(crate) fn unanswered(&mut self, number: u64, error: String) {
        if let Some(listed) = self.listed.iter_mut().find(|listed| listed.target.number == number) {
            listed.error = Some(error);
        }
    }

    /// An endpoint is ready: what is to be written.
    pub(crate) fn answers(&mut self) -> GateOrder {
        if self.resource.traffic_mode == TrafficMode::External {
            return GateOrder::Nothing;
        }
        self.gate.step(GateInput::Answers { fresh: Nonce::fresh() })
    }

    /// A wake of this DLX's own begins; the record to send with it.
    pub(crate) fn wake_begins(&mut self, record: Record) -> Record {
        let timeline = Timeline::ordered(self.wanted.take());
        self.unclaimed = None;
        self.waking = Some(Waking { began: Instant::now(), timeline, nonce: record.nonce, own: false });
        if self.resource.traffic_mode == TrafficMode::External {
            self.resource.record.clone()
        } else {
            record
        }
    }

    /// Whether the wake that is going on is seen to be this DLX's own, for the first time.
    pub(crate) fn is_seen_to_be_own(&mut self) -> bool {
        let written = self.gate.seen().map(|seen| seen.record.nonce);
        self.waking.as_ref().is_some_and(|waking| written == Some(waking.nonce)) && self.claim()
    }

    /// The wake that is going on is this DLX's own; whether that is news.
    pub(crate) fn claim(&mut self) -> bool {
        self.waking.as_mut().is_some_and(|waking| !std::mem::replace(&mut waking.own, true))
    }

    /// It came up before this DLX knew that the wake was its own: how long it took, with what, and who was the cause.
    pub(crate) fn take_unclaimed(&mut self) -> Option<(Duration, ColdStartPhases, Option<WakeCause>)> {
        let Unclaimed { cause } = self.unclaimed.take()?;
        let (timeline, took) = self.woken?;
        Some((took, timeline.phases(), cause))
    }

    /// Notes how far a wake has come.
    pub(crate) fn note_progress(&mut self) {
        // Shut: what is listed is from before it.
        if self.gate.open()
            && let Some(waking) = &mut self.waking
        {
            waking.timeline.observe(&self.resource);
        }
    }

    /// Requests can be forwarded; how long the wake took and with what, if this DLX asked for one, and whether it was its own.
    pub(crate) fn came_up(&mut self) -> Option<(Duration, ColdStartPhases, bool)> {
        self.failure = None;
        self.last_error = None;
        self.wanted = None;
        let cause = self.wake_cause.take();
        let Waking { began, mut timeline, own, .. } = self.waking.take()?;
        timeline.reach(ColdStartPhase::Ready);
        let took = began.elapsed();
        self.woken = Some((timeline, took));
        self.unclaimed = (!own).then_some(Unclaimed { cause });
        Some((took, timeline.phases(), own))
    }

    /// What a request waited for that was held since `begun`.
    pub(crate) fn cold_since(&self, begun: Instant) -> ColdStart {
        let woken = self.woken.filter(|(timeline, _)| timeline.ready() >= Some(begun));
        ColdStart {
            hold: begun.elapsed(),
            wake: woken.map(|(_, took)| took),
            phases: woken.map(|(timeline, _)| timeline.phases()).unwrap_or_default(),
        }
    }

    /// The answer's head came to a request that was held: what its time went into with that, and whether it is the first
    /// after its wake.
    pub(crate) fn answered(&mut self, cold: ColdStart) -> (ColdStart, Option<Duration>) {
        let mut first = None;
        let mut cold = cold;
        if cold.wake.is_some()
            && let Some((timeline, _)) = &mut self.woken
        {
            // Of another DLX's wake it is that one's to count.
            if timeline.reach(ColdStartPhase::FirstByte) && self.unclaimed.is_none() {
                first = timeline.phases().duration_of(ColdStartPhase::FirstByte);
            }
            let since_ready = timeline.ready().map(|ready| ready.elapsed());
            cold.phases = cold.phases.with_first_byte(since_ready.unwrap_or_default());
        }
        self.last_cold = Some(cold);
        (cold, first)
    }

    /// A wake cannot succeed: remembered for a while.
    pub(crate) fn failed(&mut self, reason: &str) {
        let took = self.waking.take().map_or(Duration::ZERO, |waking| waking.began.elapsed());
        let pause = match &self.failure {
            // One that was waited for longer than that is a pause of its own.
            Some(failure) if took < failure.pause => (failure.pause * 2).min(MAX_FAILURE_DELAY),
            _ => MIN_FAILURE_DELAY,
        };
        self.last_error = Some(reason.to_owned());
        self.wake_cause = None;
        let (at, nonce) = (Instant::now(), self.gate.seen().map(|seen| seen.record.nonce));
        self.failure = Some(WakeFailure { reason: reason.to_owned(), until: at + pause, pause, at, nonce });
        // It may have answered for a moment and ended: what is ready from here on has been asked after the failure.
        for listed in self.listed.iter_mut().filter(|listed| listed.target.endpoint.probe != Probe::Listed) {
            self.facts_changed |= listed.ready;
            listed.ready = false;
        }
    }

    /// What a request is answered while a failed wake is remembered.
    pub(crate) fn remembered_failure(&self, id: &ResourceId) -> Option<ErrorResponse> {
        let failure = self.failure.as_ref()?;
        let until = match (self.gate.open(), self.is_ready()) {
            (true, true) => return None,
            // Somebody else got it up, or tries to.
            (true, false) if self.gate.seen().map(|seen| seen.record.nonce) != failure.nonce => return None,
            // It came up after all. A plugin that goes on refusing it is not asked more often than this.
            (false, true) => failure.until.min(failure.at + MIN_FAILURE_DELAY),
            _ => failure.until,
        };
        let left = until.checked_duration_since(Instant::now())?;
        let retry = left + Duration::from_secs(1);
        Some(ErrorResponse::unavailable(id, "wake_failed", failure.reason.clone(), retry))
    }

    /// Why requests are not forwarded, for people: what the plugin says that is waited for, what the endpoints say, and
    /// what went wrong last, which may have passed.
    pub(crate) fn why_not_up(&self) -> String {
        let mut why = Vec::new();
        if self.waits_for_turn {
            why.push(
                "it waits for a wake slot: the limit of concurrent wakes is reached (--max-concurrent-wakes, maxConcurrentWakes)".to_owned(),
            );
        }
        if !self.resource.status.is_empty() {
            why.push(self.resource.status.clone());
        }
        if let Some(listed) = self.listed.iter().find(|listed| !listed.ready) {
            let error = listed.error.as_deref().unwrap_or("no answer yet");
            why.push(format!("its endpoint {} is not ready: {error}", listed.target.endpoint.address));
        }
        if let Some(error) =
            self.last_error.as_ref().filter(|error| !why.iter().any(|why| why.contains(*error)))
        {
            why.push(format!("the last error was: {error}"));
        }
        if !why.is_empty() {
            return why.join("; ");
        }
        match self.gate.seen() {
            Some(seen) if seen.record.format > Record::FORMAT => format!(
                "it is {} in a record of format {}, and this DLX reads formats up to {}: upgrade it",
                seen.record.phase,
                seen.record.format,
                Record::FORMAT
            ),
            Some(seen) if seen.scaled && self.listed.is_empty() => "it has no endpoint yet".to_owned(),
            Some(seen) => format!("it is {}", seen.record.phase),
            None => "nothing is known of it yet".to_owned(),
        }
    }
}

// === impl ListedEndpoint ===

impl ListedEndpoint {
    fn new(endpoint: Endpoint) -> Self {
        let ready = endpoint.probe == Probe::Listed;
        Self { target: Arc::new(EndpointTarget::new(endpoint)), ready, probing: false, error: None }
    }
}
