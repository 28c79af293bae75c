//! A resource's state as this DLX last saw it, behind its lock.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use daemon::settings::Settings;
use scaler_types::{
    Endpoint, Nonce, Probe, Record, Resource, ResourceId, Rollout, RolloutPhase, Scaling, TrafficMode,
    protocol::{Gate, GateInput, GateOrder, Rules},
};

use super::{
    EndpointTarget, InterceptionGuard, WakeCause,
    cold_start::{ColdStart, ColdStartPhase, ColdStartPhases, Timeline},
    target::DepartedEndpoint,
};
use crate::{answer::ErrorResponse, error_code, plugin::PluginSource};

/// For how long requests are answered with the cause of a failed wake; doubled while further wakes fail sooner than that,
/// up to [`MAX_FAILURE_DELAY`].
const MIN_FAILURE_DELAY: Duration = Duration::from_secs(1);
const MAX_FAILURE_DELAY: Duration = Duration::from_secs(30);

/// One resource's state as this DLX last saw it.
#[derive(Debug)]
pub(crate) struct ResourceView {
    /// The gate of the protocol.
    pub(crate) gate: Gate,
    /// As last listed by the plugin.
    pub(crate) resource: Resource,
    /// The plugin that lists it.
    pub(crate) source: Arc<PluginSource>,
    /// Its endpoints.
    pub(crate) listed: Vec<ListedEndpoint>,
    /// Endpoints that are not listed any more, and whose idle connections are to be closed.
    pub(crate) unlisted: Vec<u64>,
    /// Endpoints that are not listed any more, and at which requests may still be in flight.
    departed: Vec<DepartedEndpoint>,
    /// An endpoint from `resolve_service_name`, where the plugin lists none.
    pub(crate) resolved: Option<Endpoint>,
    /// The driver works on it.
    pub(crate) driven: bool,
    /// Its wake waits for a wake slot.
    pub(crate) waits_for_turn: bool,
    /// The snapshot is to be replaced.
    pub(crate) snapshot_changed: bool,
    /// No plugin lists it any more.
    pub(crate) gone: bool,
    /// Set while its interception names this DLX.
    pub(crate) interception_guard: Option<InterceptionGuard>,
    /// The nonce of the last drain attempt that was seen.
    pub(crate) last_drain: Option<Nonce>,
    /// The last failed wake.
    pub(crate) failure: Option<WakeFailure>,
    /// The last error, whether or not it has passed.
    pub(crate) last_error: Option<String>,
    /// Why its state may be old, if it is listed and cannot be read.
    pub(crate) unreadable: Option<String>,
    /// Writes in a row, at one version, whose outcome is unknown.
    pub(crate) lost_writes: u32,
    /// Since when requests are held, if any are.
    pub(crate) held_since: Option<Instant>,
    /// The first of them, until the wake has ended.
    pub(crate) wake_cause: Option<WakeCause>,
    /// The current wake of this DLX.
    waking: Option<Waking>,
    /// It came up before this DLX knew whether the wake was its own.
    unclaimed: Option<Unclaimed>,
    /// The last successful wake of this DLX, and how long it took.
    woken: Option<(Timeline, Duration)>,
    /// When the Event `TooManyHeld` was last reported.
    pub(crate) full_reported: Option<Instant>,
    /// The last cold start that a request waited for.
    pub(crate) last_cold: Option<ColdStart>,
}

/// A listed endpoint and its state.
#[derive(Debug)]
pub(crate) struct ListedEndpoint {
    /// The endpoint.
    pub(crate) target: Arc<EndpointTarget>,
    /// It takes requests.
    pub(crate) ready: bool,
    /// A probe is running.
    pub(crate) probing: bool,
    /// Why it is not ready.
    pub(crate) error: Option<String>,
}

/// A wake that this DLX ordered.
#[derive(Debug)]
struct Waking {
    began: Instant,
    /// Its phases so far.
    timeline: Timeline,
    /// The nonce of the record that it writes.
    nonce: Nonce,
    /// Its record was written: no other DLX was faster.
    own: bool,
}

/// A wake that may belong to another DLX.
#[derive(Debug)]
struct Unclaimed {
    cause: Option<WakeCause>,
}

/// A failed wake.
#[derive(Clone, Debug)]
pub(crate) struct WakeFailure {
    /// The cause.
    pub(crate) reason: String,
    /// Until when requests are answered with it at once.
    pub(crate) until: Instant,
    /// How long it is remembered.
    pub(crate) pause: Duration,
    /// When it failed.
    pub(crate) at: Instant,
    /// The record's nonce then: a new one means another attempt by another daemon.
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
            departed: Vec::new(),
            resolved: None,
            driven: false,
            waits_for_turn: false,
            snapshot_changed: false,
            gone: false,
            interception_guard: None,
            last_drain: None,
            failure: None,
            last_error: None,
            unreadable: None,
            lost_writes: 0,
            held_since: None,
            wake_cause: None,
            waking: None,
            unclaimed: None,
            woken: None,
            full_reported: None,
            last_cold: None,
        }
    }

    /// Takes over what the plugin lists.
    pub(crate) fn apply_listing(&mut self, source: &Arc<PluginSource>, resource: Resource) {
        self.gone = false;
        self.unreadable = None;
        let own = |resource: &Resource| {
            let deadline = resource.rollout.as_ref().and_then(|rollout| rollout.deadline);
            (resource.hold_timeout, resource.resource_readiness_timeout, deadline)
        };
        self.snapshot_changed |= own(&self.resource) != own(&resource);
        self.resource = resource;
        if !Arc::ptr_eq(&self.source, source) {
            self.source = source.clone();
            self.snapshot_changed = true;
        }
        if !self.scaled() {
            self.resolved = None;
        }
        self.update_endpoints();
    }

    /// No plugin lists it any more.
    pub(crate) fn mark_gone(&mut self) {
        self.gone = true;
        self.interception_guard = None;
        let listed = std::mem::take(&mut self.listed);
        self.unlist(listed);
        self.snapshot_changed = true;
    }

    /// These are not listed any more. What is in flight there goes on.
    fn unlist(&mut self, endpoints: Vec<ListedEndpoint>) {
        self.departed.retain(DepartedEndpoint::is_used);
        for ListedEndpoint { target, .. } in endpoints {
            self.unlisted.push(target.number);
            self.departed.push(target.depart());
        }
    }

    /// The requests of this DLX in flight at each incarnation of its endpoints, listed or not; only where there are any.
    pub(crate) fn in_flight_by_incarnation(&self) -> BTreeMap<String, u64> {
        let listed = self.listed.iter().map(|listed| &listed.target);
        let listed = listed.map(|target| (&target.endpoint.incarnation, target.in_flight()));
        let departed = self.departed.iter().map(|endpoint| (&endpoint.incarnation, endpoint.in_flight()));
        let mut busy = BTreeMap::new();
        for (incarnation, in_flight) in listed.chain(departed).filter(|(_, in_flight)| *in_flight > 0) {
            *busy.entry(incarnation.clone()).or_default() += in_flight;
        }
        busy
    }

    /// Takes over the endpoint from `resolve_service_name`.
    pub(crate) fn set_resolved(&mut self, address: String) {
        self.resolved = Some(Endpoint::new(address, ""));
        self.update_endpoints();
    }

    /// Keeps the endpoints that are still listed as they are, and adds the new ones.
    fn update_endpoints(&mut self) {
        // Readiness from before a sleep means nothing after it.
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
        self.unlist(before);
        self.snapshot_changed = true;
    }

    /// The settings for its requests: its own, else its namespace file's.
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

    /// How many replicas its wake asks for.
    pub(crate) fn replicas_for_request(&self) -> u32 {
        self.resource.scaling.as_ref().map_or(1, Scaling::replicas_for_request)
    }

    /// Whether it has replicas.
    pub(crate) fn scaled(&self) -> bool {
        self.gate.seen().is_some_and(|seen| seen.scaled)
    }

    /// Whether an endpoint is ready.
    pub(crate) fn is_ready(&self) -> bool {
        self.listed.iter().any(|listed| listed.ready)
    }

    /// Whether it takes no requests, and its plugin lists its replicas as ready; nothing is probed. During a wake by this DLX it is
    /// false until the plugin has answered.
    pub(crate) fn runs_without_requests(&self) -> bool {
        let is_complete = |rollout: &Rollout| rollout.phase == RolloutPhase::Complete;
        let nonce = self.gate.seen().map(|seen| seen.record.nonce);
        // That its wake failed may not be written yet.
        let has_failed = self.failure.as_ref().is_some_and(|failure| failure.nonce == nonce);
        self.gate.open()
            && !has_failed
            && !self.gate.waking()
            && self.resource.takes_no_requests()
            && self.resource.rollout.as_ref().is_none_or(is_complete)
    }

    /// Whether a wake that this DLX ordered has not ended.
    pub(crate) fn wakes(&self) -> bool {
        self.waking.is_some()
    }

    /// Endpoints that are ready.
    pub(crate) fn ready(&self) -> Vec<Arc<EndpointTarget>> {
        self.listed.iter().filter(|listed| listed.ready).map(|listed| listed.target.clone()).collect()
    }

    /// The endpoints to be probed; marks them as being probed.
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

    /// Notes that the endpoint answered a probe.
    pub(crate) fn mark_ready(&mut self, number: u64) {
        if let Some(listed) = self.listed.iter_mut().find(|listed| listed.target.number == number) {
            (listed.ready, listed.probing, listed.error) = (true, false, None);
            self.snapshot_changed = true;
        }
    }

    /// Notes that the endpoint could not be reached; whether it is listed.
    pub(crate) fn mark_unreachable(&mut self, number: u64, reason: String) -> bool {
        let Some(listed) = self.listed.iter_mut().find(|listed| listed.target.number == number) else {
            return false;
        };
        self.snapshot_changed |= listed.ready;
        (listed.ready, listed.error) = (false, Some(reason));
        true
    }

    /// Notes that a probe failed.
    pub(crate) fn note_probe_error(&mut self, number: u64, error: String) {
        if let Some(listed) = self.listed.iter_mut().find(|listed| listed.target.number == number) {
            listed.error = Some(error);
        }
    }

    /// The write that follows when an endpoint is ready, or a resource without requests runs.
    pub(crate) fn order_when_ready(&mut self) -> GateOrder {
        if self.resource.traffic_mode == TrafficMode::External {
            return GateOrder::Nothing;
        }
        self.gate.step(GateInput::Answers { fresh: Nonce::fresh() })
    }

    /// Begins a wake of this DLX; the record to send with it.
    pub(crate) fn begin_wake(&mut self, record: Record) -> Record {
        let timeline = Timeline::ordered(self.held_since.take());
        self.unclaimed = None;
        self.waking = Some(Waking { began: Instant::now(), timeline, nonce: record.nonce, own: false });
        if self.resource.traffic_mode == TrafficMode::External {
            self.resource.record.clone()
        } else {
            record
        }
    }

    /// Whether the record now shows, for the first time, that the current wake is this DLX's own.
    pub(crate) fn is_newly_own(&mut self) -> bool {
        let written = self.gate.seen().map(|seen| seen.record.nonce);
        self.waking.as_ref().is_some_and(|waking| written == Some(waking.nonce)) && self.claim()
    }

    /// Marks the current wake as this DLX's own; whether that is new.
    pub(crate) fn claim(&mut self) -> bool {
        self.waking.as_mut().is_some_and(|waking| !std::mem::replace(&mut waking.own, true))
    }

    /// The wake that came up before this DLX knew that it was its own: duration, phases and cause.
    pub(crate) fn take_unclaimed(&mut self) -> Option<(Duration, ColdStartPhases, Option<WakeCause>)> {
        let Unclaimed { cause } = self.unclaimed.take()?;
        let (timeline, took) = self.woken?;
        Some((took, timeline.phases(), cause))
    }

    /// Updates the phases of the current wake.
    pub(crate) fn note_progress(&mut self) {
        // Shut: the listed endpoints are from before the wake.
        if self.gate.open()
            && let Some(waking) = &mut self.waking
        {
            waking.timeline.observe(&self.resource);
        }
    }

    /// Notes that requests can be forwarded, or that a resource that takes no requests is up. Returns the duration and phases of this
    /// DLX's wake, if there was one, and whether it was its own.
    pub(crate) fn finish_wake(&mut self) -> Option<(Duration, ColdStartPhases, bool)> {
        self.failure = None;
        self.last_error = None;
        self.held_since = None;
        let cause = self.wake_cause.take();
        let Waking { began, mut timeline, own, .. } = self.waking.take()?;
        timeline.reach(ColdStartPhase::Ready);
        let took = began.elapsed();
        self.woken = Some((timeline, took));
        self.unclaimed = (!own).then_some(Unclaimed { cause });
        Some((took, timeline.phases(), own))
    }

    /// The cold start of a request that was held since `begun`.
    pub(crate) fn cold_since(&self, begun: Instant) -> ColdStart {
        let woken = self.woken.filter(|(timeline, _)| timeline.ready() >= Some(begun));
        ColdStart {
            hold: begun.elapsed(),
            wake: woken.map(|(_, took)| took),
            phases: woken.map(|(timeline, _)| timeline.phases()).unwrap_or_default(),
        }
    }

    /// Adds the time to the first byte to a request's cold start; returns that time if it is the first answer after the
    /// wake.
    pub(crate) fn add_first_byte(&mut self, cold: ColdStart) -> (ColdStart, Option<Duration>) {
        let mut first = None;
        let mut cold = cold;
        if cold.wake.is_some()
            && let Some((timeline, _)) = &mut self.woken
        {
            // Another DLX counts its own wake.
            if timeline.reach(ColdStartPhase::FirstByte) && self.unclaimed.is_none() {
                first = timeline.phases().duration_of(ColdStartPhase::FirstByte);
            }
            let since_ready = timeline.ready().map(|ready| ready.elapsed());
            cold.phases = cold.phases.with_first_byte(since_ready.unwrap_or_default());
        }
        self.last_cold = Some(cold);
        (cold, first)
    }

    /// Remembers a failed wake for a while.
    pub(crate) fn remember_failure(&mut self, reason: &str) {
        let took = self.waking.take().map_or(Duration::ZERO, |waking| waking.began.elapsed());
        let pause = match &self.failure {
            // A wake that took longer than that was a pause by itself.
            Some(failure) if took < failure.pause => (failure.pause * 2).min(MAX_FAILURE_DELAY),
            _ => MIN_FAILURE_DELAY,
        };
        self.last_error = Some(reason.to_owned());
        self.wake_cause = None;
        let (at, nonce) = (Instant::now(), self.gate.seen().map(|seen| seen.record.nonce));
        self.failure = Some(WakeFailure { reason: reason.to_owned(), until: at + pause, pause, at, nonce });
        // An endpoint may have answered for a moment: readiness from here on was probed after the failure.
        for listed in self.listed.iter_mut().filter(|listed| listed.target.endpoint.probe != Probe::Listed) {
            self.snapshot_changed |= listed.ready;
            listed.ready = false;
        }
    }

    /// The answer to requests while a failed wake is remembered.
    pub(crate) fn remembered_failure(&self, id: &ResourceId) -> Option<ErrorResponse> {
        let failure = self.failure.as_ref()?;
        let until = match (self.gate.open(), self.is_ready()) {
            (true, true) => return None,
            // Another daemon woke it, or is trying to.
            (true, false) if self.gate.seen().map(|seen| seen.record.nonce) != failure.nonce => return None,
            // It came up after all. A plugin that still refuses it is not called more often than this.
            (false, true) => failure.until.min(failure.at + MIN_FAILURE_DELAY),
            _ => failure.until,
        };
        let left = until.checked_duration_since(Instant::now())?;
        let retry = left + Duration::from_secs(1);
        Some(ErrorResponse::unavailable(id, error_code::WAKE_FAILED, failure.reason.clone(), retry))
    }

    /// Why requests are not forwarded, as text: what the plugin waits for, what the endpoints answer, and the last error,
    /// which may have passed.
    pub(crate) fn why_not_up(&self) -> String {
        let mut why = Vec::new();
        if self.waits_for_turn {
            why.push(
                "it waits for a wake slot: the limit of concurrent wakes is reached (--max-concurrent-wakes, maxConcurrentWakes)".to_owned(),
            );
        }
        why.extend(self.unreadable.clone());
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
            None => "its record has not been read yet".to_owned(),
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
