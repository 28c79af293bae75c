//! One resource whose replicas are chosen here, or that is to be woken: its state, and what is due. Pure: takes the time as an argument.

use std::{collections::HashMap, sync::Arc, time::Duration};

use daemon::{
    settings::{Compatibility, MetricsSource},
    wakes::{WakeFor, WakeSlot},
};
use scaler_types::{
    Phase, Record, Resource, ScaleError, Scaling, TrafficMode, Version, backoff::Backoff, duration::short,
};
use tokio::time::Instant;

use crate::{
    decide::{
        desired_replicas::{DesiredReplicas, Load, ScalingInput, desired_replicas},
        has_no_requests,
    },
    interception::is_up,
    observe::{
        MetricReading, MetricValue, RequestedScalingMetric,
        load::LoadHistory,
        queues::{QueueHistory, QueueNotIdle},
        shortest_window,
        work::{SHOW_IN_FLIGHT, Work, WorkNotIdle},
    },
};

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
    /// Another writer was faster: nothing is lowered before the next reading.
    only_raises: bool,
    /// This version was written over, which is not listed yet.
    written: Option<(Version, Instant)>,
    /// Since when it has not been known when it was scaled last.
    unstamped: Option<Instant>,
    /// Its place among the wakes, until it is up.
    starting: Option<(WakeSlot, Instant)>,
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

/// Whether the DLXs count its requests while it is awake.
pub(super) fn is_counted_by_dlxs(resource: &Resource) -> bool {
    resource.traffic_mode == TrafficMode::Always && !has_no_requests(resource)
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
            only_raises: false,
            written: None,
            unstamped: None,
            starting: None,
        }
    }

    /// Updates it with what the plugin lists now.
    pub(super) fn update(&mut self, resource: Resource) {
        let wakes_anew = !resource.wake_now.is_empty() && resource.wake_now != self.resource.wake_now;
        if wakes_anew || resource.scaling != self.resource.scaling {
            // A user may have corrected what failed.
            self.failures = None;
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
        if let Some((written, at)) = &self.written
            && *written == self.resource.version
            && now.saturating_duration_since(*at) < VISIBLE_WITHIN
        {
            return None;
        }
        self.written = None;
        if self.calling || self.resource.record.format > Record::FORMAT {
            return None;
        }
        self.due_action().filter(|action| !self.is_paused(action))
    }

    /// Whether such a call failed a short time ago. One that lowers says nothing of a wake or a step up.
    fn is_paused(&self, action: &ScaleAction) -> bool {
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
            Phase::Asleep | Phase::Failed | Phase::Draining => None,
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
            let QueueTotals { messages, unknown, .. } = queue_totals(scaling, context);
            // Without a target any number of messages is for one replica.
            let target = scaling.messages_per_replica.unwrap_or(f64::MAX);
            loads.push(Load { metric: "messages".into(), value: messages, target, unknown, wakes: true });
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
                Some(Load { metric: metric.into(), value, target: target?, unknown, wakes: false })
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
                Load { metric: name.into(), value, target: metric.target, unknown, wakes }
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
        let written = self.written.as_ref().map(|(_, at)| *at + VISIBLE_WITHIN);
        let pause = self.failures.as_ref().and_then(|failures| failures.pause);
        pause.into_iter().chain(starting).chain(written).min()
    }

    /// A call has ended, which lowered the number of replicas or did not; whether its error is a new one.
    pub(super) fn record_call(
        &mut self,
        now: Instant,
        version: &Version,
        lowered: bool,
        result: &Result<(), ScaleError>,
    ) -> bool {
        self.calling = false;
        if result.is_err() {
            self.starting = None;
        }
        let backoff = match result {
            Ok(()) => {
                (self.failures, self.failed) = (None, None);
                self.written = Some((version.clone(), now));
                return false;
            }
            Err(ScaleError::Conflict) => {
                self.only_raises = true;
                self.written = Some((version.clone(), now));
                return false;
            }
            Err(ScaleError::Terminal { .. } | ScaleError::Unsupported) => TERMINAL_PAUSE,
            Err(ScaleError::Retry { .. }) => RETRY_PAUSE,
        };
        let before = self.failures.take().filter(|failures| failures.lowered == lowered);
        let mut backoff = before.map_or(backoff, |failures| failures.backoff);
        let mut pause = backoff.next_pause();
        if let Err(ScaleError::Retry { after, .. }) = result {
            pause = pause.max(*after);
        }
        self.failures = Some(FailedCalls { lowered, pause: Some(now + pause), backoff });
        let why = result.as_ref().err().map(|error| Arc::from(error.to_string()));
        let is_new = self.failed != why;
        self.failed = why;
        is_new
    }
}

/// What all queues of a resource hold together.
struct QueueTotals {
    /// Waiting and in flight, as far as is known.
    messages: f64,
    arriving_per_minute: Option<f64>,
    idle_consumers: Option<u64>,
    /// Why that is not all.
    unknown: Option<Arc<str>>,
}

fn queue_totals(scaling: &Scaling, context: RuleContext<'_>) -> QueueTotals {
    let mut totals =
        QueueTotals { messages: 0.0, arriving_per_minute: Some(0.0), idle_consumers: Some(0), unknown: None };
    for queue in &scaling.queues {
        let history = context.queues.get(queue);
        let reading = match history.map(|history| history.reading(context.now)) {
            Some(Ok(reading)) => reading,
            other => {
                let why = other.and_then(Result::err).unwrap_or_else(|| "it has not been read yet".into());
                totals.unknown.get_or_insert_with(|| format!("cannot read {queue}: {why}").into());
                (totals.arriving_per_minute, totals.idle_consumers) = (None, None);
                continue;
            }
        };
        let messages = reading.waiting.unwrap_or(0).saturating_add(reading.in_flight.unwrap_or(0));
        #[expect(clippy::cast_precision_loss, reason = "to the nearest of 2^53 is exact enough")]
        let messages = messages as f64;
        totals.messages += messages;
        if reading.waiting.is_none() {
            let why = || format!("the broker of {queue} does not say what waits in it").into();
            totals.unknown.get_or_insert_with(why);
        } else if !history.is_some_and(|history| shows_work(scaling, history, context.now)) {
            totals.unknown.get_or_insert_with(|| format!("{queue}: {SHOW_IN_FLIGHT}").into());
        }
        let add = |total: f64| Some(total + reading.arriving_per_minute?);
        totals.arriving_per_minute = totals.arriving_per_minute.and_then(add);
        let add = |total: u64| Some(total.saturating_add(reading.idle_consumers?));
        totals.idle_consumers = totals.idle_consumers.and_then(add);
    }
    totals
}

/// Whether it can be known that the workers of a queue are done.
fn shows_work(scaling: &Scaling, history: &QueueHistory, now: Instant) -> bool {
    scaling.has_busy_probe
        || scaling.early_ack
        || history.reading(now).is_ok_and(|reading| reading.in_flight.is_some())
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
mod tests;
