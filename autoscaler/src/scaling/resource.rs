//! One resource whose replicas are chosen here, or that is to be woken: its state, and what is due. Pure: takes the time as an argument.

mod queue_totals;
mod restarts;

use std::{collections::HashMap, sync::Arc, time::Duration};

use daemon::{
    settings::{Compatibility, MetricsSource},
    wakes::{WakeFor, WakeSlot},
};
use scaler_types::{
    Phase, Record, Resource, RolloutPhase, ScaleError, Scaling, TrafficMode, Version, backoff::Backoff,
    duration::short,
};
use tokio::time::Instant;

use crate::{
    decide::desired_replicas::{DesiredReplicas, Limit, Load, ScalingInput, desired_replicas},
    interception::is_up,
    observe::{
        MetricReading, MetricValue, RequestedScalingMetric,
        load::LoadHistory,
        queues::{QueueHistory, QueueNotIdle},
        shortest_window,
        work::{Work, WorkNotIdle},
    },
};
use queue_totals::{QueueTotals, queue_totals, shows_work};
use restarts::Restarts;

/// After a call that failed.
const RETRY_PAUSE: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
/// After one that cannot succeed without a change by the user.
const TERMINAL_PAUSE: Backoff = Backoff::new(Duration::from_secs(30), Duration::from_secs(600));
/// How long a write may take to be listed.
const VISIBLE_WITHIN: Duration = Duration::from_secs(10);
/// How long a reading of a metric counts.
const MAX_METRIC_AGE: Duration = Duration::from_secs(45);
/// The window of a request metric of another source, where the source does not say how short it may be.
const REQUEST_WINDOW: Duration = Duration::from_secs(60);

/// The state of one resource.
#[derive(Debug)]
pub(super) struct ScaledResource {
    /// As the plugin listed it last.
    pub(super) resource: Resource,
    /// Its requests, as the DLXs report them.
    pub(super) load: LoadHistory,
    /// The metrics of another source, each with what was asked for, and when they were read.
    pub(super) readings: Option<(Instant, Vec<(RequestedScalingMetric, MetricReading)>)>,
    /// What it should have, as of the last check.
    pub(super) desired: Option<DesiredReplicas>,
    /// A call for it is under way, or waits for a place among the wakes.
    pub(super) calling: bool,
    /// The calls that failed in a row.
    failures: Option<FailedCalls>,
    /// Why the last call failed.
    pub(super) failed: Option<Arc<str>>,
    /// Why its replicas are not lowered yet: those that could be removed have work.
    pub(super) busy: Option<Arc<str>>,
    /// What its users have to change before it is lowered, as it was reported.
    not_shown: Option<Arc<str>>,
    /// Another writer was faster: nothing is lowered before the next reading.
    only_raises: bool,
    /// A write that is not listed yet.
    written: Option<UnlistedWrite>,
    /// A change of its replicas that is listed and not reported yet.
    finished: Option<FinishedStep>,
    /// Since when it has not been known when it was scaled last.
    unstamped: Option<Instant>,
    /// Its place among the wakes, until it is up.
    starting: Option<(WakeSlot, Instant)>,
    /// Its replicas that ended by themselves, or that another writer removed.
    restarts: Restarts,
}

/// Calls of one direction that failed in a row.
#[derive(Debug)]
struct FailedCalls {
    /// They lowered the number of replicas: only another such call waits.
    lowered: bool,
    /// No such call before that.
    pause: Option<Instant>,
    /// The pauses after them.
    backoff: Backoff,
}

/// A write that is not listed yet.
#[derive(Debug)]
struct UnlistedWrite {
    /// It was written over this version.
    over: Version,
    at: Instant,
    /// The change of the number of replicas, if it was one.
    step: Option<Step>,
}

/// A change of the number of replicas, as it was requested.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Step {
    pub(super) before: u32,
    pub(super) to: u32,
    pub(super) reason: String,
}

/// The outcome of a step.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FinishedStep {
    pub(super) step: Step,
    /// How many replicas there are: more than requested where some have work.
    pub(super) replicas: u32,
}

/// What evaluating a resource needs besides its own state.
#[derive(Clone, Copy)]
pub(super) struct RuleContext<'a> {
    pub(super) now: Instant,
    /// Seconds since 1970 by this host's clock.
    pub(super) wall: u64,
    pub(super) compatibility: Option<Compatibility>,
    pub(super) source: &'a MetricsSource,
    pub(super) queues: &'a HashMap<String, QueueHistory>,
}

/// What is due.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ScaleAction {
    /// Change the number of replicas.
    Resize { to: u32, reason: String },
    /// Wake it.
    Wake { replicas: u32, reason: String, wake_for: WakeFor },
}

/// The metrics of another source by which a resource is scaled.
pub(super) fn source_metrics(resource: &Resource, shortest: Option<Duration>) -> Vec<RequestedScalingMetric> {
    let Some(scaling) = &resource.scaling else { return Vec::new() };
    let mut metrics: Vec<_> = scaling
        .metrics
        .iter()
        .map(|metric| RequestedScalingMetric {
            name: metric.metric_name.clone(),
            window: metric.window_size,
            target: metric.target_per_replica,
            is_requests: false,
        })
        .collect();
    if resource.traffic_mode != TrafficMode::Always {
        let window = shortest.unwrap_or(REQUEST_WINDOW);
        let requests = [
            ("in_flight", scaling.in_flight_per_replica, 1.0),
            ("requests", scaling.requests_per_replica, window.as_secs_f64()),
        ];
        metrics.extend(requests.into_iter().filter_map(|(name, target, seconds)| {
            let target = target? * seconds;
            Some(RequestedScalingMetric { name: name.to_owned(), window, target, is_requests: true })
        }));
    }
    metrics
}

/// Its scaling as its users configured it, without the time that each scale writes.
fn configured(resource: &Resource) -> Option<Scaling> {
    resource.scaling.clone().map(|scaling| Scaling { last_scaled: None, ..scaling })
}

/// Whether it is scaled by requests that the DLXs count.
pub(super) fn has_request_target(resource: &Resource) -> bool {
    let has_target =
        |scaling: &Scaling| scaling.in_flight_per_replica.is_some() || scaling.requests_per_replica.is_some();
    is_counted_by_dlxs(resource) && resource.scaling.as_ref().is_some_and(has_target)
}

/// Whether the DLXs count its requests while it is awake.
pub(super) fn is_counted_by_dlxs(resource: &Resource) -> bool {
    resource.traffic_mode == TrafficMode::Always && !resource.takes_no_requests()
}

// === impl ScaleAction ===

impl ScaleAction {
    /// Whether it lowers the number of replicas from this one.
    pub(super) fn lowers(&self, before: u32) -> bool {
        matches!(self, Self::Resize { to, .. } if *to < before)
    }
}

// === impl ScaledResource ===

impl ScaledResource {
    pub(super) fn new(resource: Resource) -> Self {
        Self {
            resource,
            load: LoadHistory::default(),
            readings: None,
            desired: None,
            calling: false,
            failures: None,
            failed: None,
            busy: None,
            not_shown: None,
            only_raises: false,
            written: None,
            finished: None,
            unstamped: None,
            starting: None,
            restarts: Restarts::new(),
        }
    }

    /// Updates it with what the plugin lists now.
    pub(super) fn update(&mut self, resource: Resource) {
        let wakes_anew = !resource.wake_now.is_empty() && resource.wake_now != self.resource.wake_now;
        self.restarts.observe(&self.resource, &resource);
        if wakes_anew || configured(&resource) != configured(&self.resource) {
            self.forget_failures();
        }
        // Also by another change. A wake that fails writes a new version itself.
        if resource.version != self.resource.version
            && let Some(failures) = self.failures.as_mut().filter(|failures| failures.lowered)
        {
            failures.pause = None;
        }
        if is_up(&resource) {
            self.starting = None;
        }
        self.resource = resource;
    }

    /// A user may have corrected what failed.
    pub(super) fn forget_failures(&mut self) {
        (self.failures, self.restarts) = (None, Restarts::new());
    }

    /// Its metrics were read: what they say holds for the resource as it is now.
    pub(super) fn note_reading(&mut self) {
        self.only_raises = false;
    }

    /// A wake begins that has this place among the wakes.
    pub(super) fn begin_wake(&mut self, slot: WakeSlot, until: Instant) {
        self.starting = Some((slot, until));
    }

    /// Decides how many replicas it should have, and what is due for that.
    pub(super) fn evaluate(&mut self, context: RuleContext<'_>) -> Option<ScaleAction> {
        let now = context.now;
        self.starting = self.starting.take().filter(|(_, until)| now < *until);
        if let Some(failures) = &mut self.failures {
            failures.pause = failures.pause.filter(|until| now < *until);
        }
        self.restarts.advance(now);
        let since_scaled = self.since_scaled(now, context);
        self.desired = self.resource.scaling.as_ref().map(|scaling| {
            let loads = self.loads(scaling, context);
            let queues = queue_totals(scaling, context);
            desired_replicas(&ScalingInput {
                scaling,
                compatibility: context.compatibility,
                current: self.resource.replicas,
                loads: &loads,
                arriving_per_minute: queues.arriving_per_minute,
                idle_consumers: queues.idle_consumers,
                since_scaled,
            })
        });
        if let Some(written) = self.written.take() {
            let is_listed = written.over != self.resource.version;
            if !is_listed && now.saturating_duration_since(written.at) < VISIBLE_WITHIN {
                self.written = Some(written);
                return None;
            }
            let listed = |step: &Step| if is_listed { self.resource.replicas } else { step.to };
            self.finished = written
                .step
                .map(|step| FinishedStep { replicas: listed(&step), step })
                .or(self.finished.take());
        }
        if self.desired.as_ref().is_none_or(|desired| desired.replicas >= self.resource.replicas) {
            self.busy = None;
        }
        if self.calling || self.resource.record.format > Record::FORMAT {
            return None;
        }
        self.due_action().filter(|action| !self.is_paused(action))
    }

    /// The change of its replicas that is to be reported now.
    pub(super) fn take_finished(&mut self) -> Option<FinishedStep> {
        self.finished.take()
    }

    /// What its users have to change before it is lowered, if that is to be reported now: once, until it is another.
    pub(super) fn take_not_shown(&mut self) -> Option<Arc<str>> {
        let why = match self.desired.as_ref().map(|desired| &desired.limit) {
            Some(Limit::NotShown(why)) => why.clone(),
            _ => return None,
        };
        let is_new = self.not_shown.as_ref() != Some(&why);
        self.not_shown = Some(why.clone());
        is_new.then_some(why)
    }

    /// That its replicas end again and again, if that is to be reported now.
    pub(super) fn take_ended(&mut self) -> Option<Arc<str>> {
        self.restarts.take_report(&self.resource.status)
    }

    /// Why replicas that ended, or that another writer removed, are not started again yet.
    pub(super) fn restart_pause(&self, now: Instant) -> Option<String> {
        self.restarts.reason(now, &self.resource.status)
    }

    /// Whether the action has to wait: such a call failed recently, or it would restart replicas that ended or were removed
    /// recently. A failed step down does not delay a wake or a step up.
    fn is_paused(&self, action: &ScaleAction) -> bool {
        let restarts = match action {
            ScaleAction::Resize { to, .. } => *to > self.resource.replicas && self.restarts.delays(*to),
            ScaleAction::Wake { wake_for: WakeFor::Request, .. } => false,
            ScaleAction::Wake { replicas, .. } => self.restarts.delays(*replicas),
        };
        if restarts {
            return true;
        }
        let paused = self.failures.as_ref().filter(|failures| failures.pause.is_some());
        paused.is_some_and(|failures| !failures.lowered || action.lowers(self.resource.replicas))
    }

    fn due_action(&self) -> Option<ScaleAction> {
        let Self { resource, desired, .. } = self;
        let replicas = resource.replicas;
        match resource.record.phase {
            Phase::Asleep | Phase::Failed | Phase::Active if replicas == 0 => {
                let fewest = resource.scaling.as_ref().map_or(1, Scaling::replicas_for_request);
                if !resource.wake_now.is_empty() {
                    let (replicas, wake_for) = (fewest, WakeFor::Request);
                    return Some(ScaleAction::Wake { replicas, reason: resource.wake_now.clone(), wake_for });
                }
                let desired = desired.as_ref().filter(|desired| desired.has_work && desired.replicas > 0)?;
                let reason = format!("woken: {desired}");
                Some(ScaleAction::Wake { replicas: desired.replicas, reason, wake_for: WakeFor::Failover })
            }
            phase @ (Phase::Active | Phase::Waking) => {
                let desired = desired.as_ref()?;
                // The last replica is for a drain to remove, whatever the rule says.
                let to = desired.replicas.max(1);
                let lowers = phase == Phase::Active && !self.only_raises;
                (to > replicas || to < replicas && lowers && replicas > 0)
                    .then(|| ScaleAction::Resize { to, reason: desired.to_string() })
                    .filter(|_| replicas > 0)
            }
            Phase::Failed => {
                let desired = desired.as_ref()?;
                // Its wake failed, and it came up since: as any that is awake it goes on by the rule.
                let is_ready =
                    resource.rollout.as_ref().is_some_and(|rollout| rollout.phase == RolloutPhase::Complete);
                let is_due = is_ready || desired.has_work && is_up(resource);
                let reason = format!("it came up after its last wake had failed: {desired}");
                let (replicas, wake_for) = (desired.replicas.max(1), WakeFor::Failover);
                is_due.then_some(ScaleAction::Wake { replicas, reason, wake_for })
            }
            Phase::Asleep | Phase::Draining => None,
        }
    }

    /// How long ago its replicas were changed; where that is not known, it counts as changed when this process first saw it so.
    fn since_scaled(&mut self, now: Instant, context: RuleContext<'_>) -> Option<Duration> {
        let last_scaled = self.resource.scaling.as_ref()?.last_scaled;
        if let Some(since) = last_scaled.and_then(|last| context.wall.checked_sub(last)) {
            self.unstamped = None;
            return Some(Duration::from_secs(since));
        }
        let since = *self.unstamped.get_or_insert(now);
        match (context.compatibility, last_scaled) {
            (Some(Compatibility::WorkerPodAutoscaler), None) => None,
            _ => Some(now.saturating_duration_since(since)),
        }
    }

    /// The metrics with a target.
    fn loads(&self, scaling: &Scaling, context: RuleContext<'_>) -> Vec<Load> {
        let mut loads = Vec::new();
        if !scaling.queues.is_empty() {
            let QueueTotals { messages, unknown, not_shown, .. } = queue_totals(scaling, context);
            // Without a target any number of messages is for one replica.
            let target = scaling.messages_per_replica.unwrap_or(f64::MAX);
            loads.push(Load {
                metric: "messages".into(),
                is_count: true,
                value: messages,
                target,
                unknown,
                not_shown,
                wakes: true,
            });
        }
        loads.extend(self.request_loads(scaling, context));
        loads.extend(self.source_loads(context));
        loads
    }

    /// The requests as the DLXs count them.
    fn request_loads(&self, scaling: &Scaling, context: RuleContext<'_>) -> Vec<Load> {
        let targets = [
            ("requests in flight", scaling.in_flight_per_replica),
            ("requests per second", scaling.requests_per_replica),
        ];
        let has_other_source = *context.source != MetricsSource::Dlx;
        if self.resource.traffic_mode != TrafficMode::Always && has_other_source {
            return Vec::new();
        }
        let load = match self.resource.traffic_mode {
            TrafficMode::Always => self.load.load(context.now),
            _ => {
                Err("the DLXs see its requests only while it is asleep: set metrics.source to prometheus"
                    .into())
            }
        };
        let values = load.as_ref().map_or([0.0; 2], |load| [load.in_flight, load.per_second]);
        let with_target = targets.into_iter().zip(values);
        with_target
            .filter_map(|((metric, target), value)| {
                let unknown = load.as_ref().err().cloned();
                Some(Load {
                    metric: metric.into(),
                    is_count: true,
                    value,
                    target: target?,
                    unknown,
                    not_shown: None,
                    wakes: false,
                })
            })
            .collect()
    }

    /// The metrics of another source.
    fn source_loads(&self, context: RuleContext<'_>) -> Vec<Load> {
        let metrics = source_metrics(&self.resource, shortest_window(context.source));
        let readings = self.readings.as_ref();
        let readings =
            readings.filter(|(at, _)| context.now.saturating_duration_since(*at) <= MAX_METRIC_AGE);
        metrics
            .into_iter()
            .filter(|metric| !metric.is_requests || *context.source != MetricsSource::Dlx)
            .map(|metric| {
                // Its user may have changed the metrics since they were read.
                let is_of_it = |asked: &RequestedScalingMetric| {
                    asked.name == metric.name && asked.window == metric.window
                };
                let reading =
                    readings.and_then(|(_, readings)| readings.iter().find(|(asked, _)| is_of_it(asked)));
                let (value, unknown) = match reading {
                    Some((_, reading)) => known_value(reading, metric.window),
                    None => (0.0, Some(format!("{} has not been read lately", metric.name).into())),
                };
                let name = format!("{} in {}", metric.name, short(metric.window));
                let wakes = !metric.is_requests;
                let (metric, target) = (name.into(), metric.target);
                Load { metric, is_count: false, value, target, unknown, not_shown: None, wakes }
            })
            .collect()
    }

    /// Whether it has anything to do by its queues and metrics, and since when not.
    pub(super) fn work(&self, context: RuleContext<'_>) -> Option<Work> {
        let scaling = self.resource.scaling.as_ref()?;
        if scaling.queues.is_empty() && scaling.metrics.is_empty() {
            return None;
        }
        Some(match self.idle_for(scaling, context) {
            Ok(idle) => Work::IdleFor(idle),
            Err(reason) => Work::NotIdle(reason),
        })
    }

    fn idle_for(&self, scaling: &Scaling, context: RuleContext<'_>) -> Result<Duration, WorkNotIdle> {
        let mut idle_for = Duration::MAX;
        for queue in &scaling.queues {
            let name = || Arc::from(queue.as_str());
            let history = context.queues.get(queue).ok_or(WorkNotIdle::NotRead)?;
            let idle = history.idle_for(context.now).map_err(|not_idle| match not_idle {
                QueueNotIdle::NotRead => WorkNotIdle::NotRead,
                QueueNotIdle::Unknown(why) => WorkNotIdle::QueueUnknown { queue: name(), why },
                QueueNotIdle::Messages(messages) => WorkNotIdle::Messages { queue: name(), messages },
            })?;
            if !shows_work(scaling, history, context.now) {
                return Err(WorkNotIdle::InFlightNotShown { queue: name() });
            }
            idle_for = idle_for.min(idle);
        }
        for load in self.source_loads(context).into_iter().filter(|load| load.wakes) {
            match load {
                Load { unknown: Some(why), .. } => return Err(WorkNotIdle::MetricUnknown { why }),
                Load { metric, value, .. } if value != 0.0 => {
                    return Err(WorkNotIdle::Metric { metric, value });
                }
                _ => {}
            }
        }
        Ok(idle_for)
    }

    /// When to evaluate it again, if nothing changes before.
    pub(super) fn again(&self) -> Option<Instant> {
        let starting = self.starting.as_ref().map(|(_, until)| *until);
        let written = self.written.as_ref().map(|written| written.at + VISIBLE_WITHIN);
        let pause = self.failures.as_ref().and_then(|failures| failures.pause);
        pause.into_iter().chain(starting).chain(written).chain(self.restarts.pause()).min()
    }

    /// A call on this version has ended; `before`: the replicas that there were. Whether its error is a new one.
    pub(super) fn record_call(
        &mut self,
        now: Instant,
        version: &Version,
        (action, before): (&ScaleAction, u32),
        result: &Result<(), ScaleError>,
    ) -> bool {
        self.calling = false;
        if result.is_err() {
            self.starting = None;
        }
        let written = |step| Some(UnlistedWrite { over: version.clone(), at: now, step });
        let backoff = match result {
            Ok(()) => {
                (self.failures, self.failed, self.busy) = (None, None, None);
                self.written = written(match action {
                    ScaleAction::Resize { to, reason } => {
                        Some(Step { before, to: *to, reason: reason.clone() })
                    }
                    ScaleAction::Wake { .. } => None,
                });
                return false;
            }
            Err(ScaleError::Conflict) => {
                self.only_raises = true;
                self.written = written(None);
                return false;
            }
            Err(ScaleError::Terminal { .. } | ScaleError::Unsupported) => TERMINAL_PAUSE,
            Err(ScaleError::Retry { .. } | ScaleError::Busy { .. }) => RETRY_PAUSE,
        };
        let lowered = action.lowers(before);
        let before = self.failures.take().filter(|failures| failures.lowered == lowered);
        let mut backoff = before.map_or(backoff, |failures| failures.backoff);
        let mut pause = backoff.next_pause();
        if let Err(ScaleError::Retry { after, .. } | ScaleError::Busy { after, .. }) = result {
            pause = pause.max(*after);
        }
        self.failures = Some(FailedCalls { lowered, pause: Some(now + pause), backoff });
        if let Err(ScaleError::Busy { reason, .. }) = result {
            // Replicas with work are no failure, however often that happens.
            self.failed = None;
            return self.busy.replace(reason.as_str().into()).is_none();
        }
        let why = result.as_ref().err().map(|error| Arc::from(error.to_string()));
        let is_new = self.failed != why;
        self.failed = why;
        is_new
    }
}

/// A reading's value, and why it, or a part of its window, is not known.
fn known_value(reading: &MetricReading, window: Duration) -> (f64, Option<Arc<str>>) {
    let MetricReading { metric, value, coverage } = reading;
    let value = match value {
        MetricValue::Number(value) if value.is_finite() && *value >= 0.0 => *value,
        MetricValue::Absent { idle: true } => 0.0,
        other => return (0.0, Some(format!("{metric}: {other}").into())),
    };
    (
        value,
        (!coverage.covers(window))
            .then(|| format!("{metric} is not complete for its window: {coverage}").into()),
    )
}

#[cfg(test)]
mod steady_load;
#[cfg(test)]
mod tests;
