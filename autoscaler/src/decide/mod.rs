//! Whether a resource may go to zero: a pure function, and the rules it knows.
//!
//! One principle is behind all of them: **an error or a missing value is never zero.** Whatever is not known for
//! certain keeps a resource awake, and says so.

pub(crate) mod desired_replicas;
mod reason;
mod rollout;

use std::{fmt, sync::Arc, time::Duration};

use scaler_types::{Phase, Record, Resource, ScaleEvent, ScaleResource, Scaling, TrafficMode, protocol::Gap};
use tokio::time::Instant;

use crate::{
    interception::{self, InterceptionConditions},
    observe::{
        ActivityUnknown, Completeness, DlxReports, Measurements, MetricReading, MetricValue, REQUESTS,
        Sample, SampleCount,
        work::{Work, WorkNotIdle},
    },
};
pub(crate) use reason::{Idle, Reason};
pub(crate) use rollout::ObservedRollout;

/// The decision about a resource, and why.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    /// Leave it as it is.
    Keep(Reason),
    /// Try to put it to zero.
    ScaleToZero(Idle),
}

/// This process's history of a resource, by its own monotonic clock. Times of different hosts are never compared.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ScaleHistory {
    /// The last thing that happened to its scale, and when this process saw it.
    pub(crate) event: Option<(ScaleEvent, Instant)>,
    /// Since when everything that the DLXs did is known, and what is missing before.
    pub(crate) gap: Option<(Instant, Gap)>,
    /// Since when the plugin has listed it.
    pub(crate) listed: Option<Instant>,
    /// Consecutive failed attempts to scale it.
    pub(crate) failure: Option<ScaleFailure>,
    /// When it was awake last after a wake, or seen first.
    pub(crate) woken: Option<Instant>,
    /// The rollout of its current revision; none: nothing runs, or its plugin does not know it.
    pub(crate) rollout: Option<ObservedRollout>,
}

/// Consecutive failed attempts to scale a resource.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ScaleFailure {
    /// How many.
    pub(crate) attempts: u32,
    /// Why the last one failed.
    pub(crate) reason: Arc<str>,
    /// No further try before.
    pub(crate) until: Instant,
}

/// The observed activity of a resource.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Evidence<'a> {
    /// How complete the DLXs' reports are.
    pub(crate) source: &'a DlxReports,
    /// What they reported of it.
    pub(crate) samples: &'a [Sample],
    /// The source of its metrics.
    pub(crate) measure: Measurements<'a>,
    /// Conditions that hold for all interceptions.
    pub(crate) conditions: InterceptionConditions,
    /// What its queues and metrics with a target say; none: it has none, or nothing is known of them yet.
    pub(crate) work: Option<&'a Work>,
}

/// Whether `resource` may go to zero.
///
/// `metrics` are the resource's own or, where it brings none, its namespace's defaults.
pub(crate) fn decide(
    now: Instant,
    resource: &Resource,
    metrics: &[ScaleResource],
    evidence: Evidence<'_>,
    history: &ScaleHistory,
) -> Decision {
    match find_idle(now, resource, metrics, evidence, history) {
        Ok(idle) => Decision::ScaleToZero(idle),
        Err(reason) => Decision::Keep(reason),
    }
}

fn find_idle(
    now: Instant,
    resource: &Resource,
    metrics: &[ScaleResource],
    evidence: Evidence<'_>,
    history: &ScaleHistory,
) -> Result<Idle, Reason> {
    let Evidence { source, samples, measure, conditions, work } = evidence;
    check_may_be_scaled(now, resource, history)?;
    let listed = history.listed.map_or(Duration::ZERO, |since| now.duration_since(since));
    if resource.traffic_mode == TrafficMode::Unknown {
        return Err(Reason::ModeUnknown);
    }
    let scaling = resource.scaling.as_ref();
    let has_queues = scaling.is_some_and(|scaling| !scaling.queues.is_empty());
    // Its queues say whether it is idle, and what other metrics it has: there are no requests to be counted.
    let without_requests = resource.takes_no_requests();
    let by_queues = has_queues && without_requests;
    interception::check_ready(resource, metrics, measure, conditions).map_err(Reason::Interception)?;
    if resource.traffic_mode == TrafficMode::WhenAsleep && metrics.is_empty() {
        return Err(Reason::NoMetrics);
    }
    rollout::check_finished(now, resource, history)?;
    if !resource.sleep_now {
        match measure {
            _ if metrics.is_empty() => return Err(Reason::NoMetrics),
            Measurements::Samples => check_only_requests_metric(metrics)?,
            Measurements::Readings(_) => {}
        }
    }
    // In traffic mode external no DLX sees its requests while it is awake. In when-asleep they do for as long as
    // its Service points to both. Where nothing can request it there may be no DLX at all.
    if resource.traffic_mode != TrafficMode::External && !without_requests {
        check_nothing_in_flight(source, samples)?;
    }
    let largest = metrics.iter().map(|metric| metric.window_size).max().unwrap_or_default();
    let without_work = match scaling.is_some_and(Scaling::has_work) {
        true => Some(check_work(work, if resource.sleep_now { Duration::ZERO } else { largest })?),
        false => None,
    };
    if resource.sleep_now {
        return Ok(Idle::Requested);
    }
    let mut idle = None;
    let is_skipped = |metric: &ScaleResource| by_queues && metric.metric_name == REQUESTS;
    for metric in metrics.iter().filter(|metric| !is_skipped(metric)) {
        let by_metric = match measure {
            Measurements::Samples if resource.traffic_mode == TrafficMode::External => {
                return Err(Reason::TrafficModeExternal);
            }
            Measurements::Samples => check_request_count(metric, samples, listed)?,
            Measurements::Readings(readings) => Some(check_reading(metric, readings)?),
        };
        // The metric that came closest to its threshold is the reason, a missing value last.
        idle = match (idle, by_metric) {
            (Some(state @ Idle::Below { .. }), Some(Idle::Absent { .. })) => Some(state),
            (state, by_metric) => by_metric.or(state),
        };
    }
    if let Some((event, seen)) = history.event
        && delays_scale_down(event)
        && now.duration_since(seen) < largest
    {
        return Err(Reason::Event { event, ago: now.duration_since(seen), window: largest });
    }
    rollout::check_ready_for(now, history, largest)?;
    if let (Some(wanted), Some(woken)) = (resource.min_awake, history.woken)
        && now.duration_since(woken) < wanted
    {
        return Err(Reason::MinAwake { ago: now.duration_since(woken), wanted });
    }
    if let Some(idle) = without_work.filter(|_| by_queues) {
        return Ok(Idle::NoWork { idle });
    }
    if let Measurements::Samples = measure
        && let Some((since, gap)) =
            history.gap.as_ref().filter(|(since, _)| now.duration_since(*since) < largest)
    {
        return Err(Reason::Gap { gap: gap.clone(), ago: now.duration_since(*since), window: largest });
    }
    let quiet = samples.iter().filter_map(Sample::idle_for).min().unwrap_or(listed);
    Ok(idle.unwrap_or(Idle::Quiet { idle: quiet }))
}

/// Whether a resource is still idle after its Service was switched to the DLXs, by metrics of a window
/// of that time.
///
/// # Errors
///
/// It is not, or that is not known.
pub(crate) fn check_still_idle(metrics: &[ScaleResource], evidence: Evidence<'_>) -> Result<(), Reason> {
    check_nothing_in_flight(evidence.source, evidence.samples)?;
    let Measurements::Readings(readings) = evidence.measure else { return Err(Reason::NoMetrics) };
    if metrics.is_empty() {
        return Err(Reason::NoMetrics);
    }
    metrics.iter().try_for_each(|metric| check_reading(metric, readings).map(drop))
}

/// Whether its queues and metrics with a target have said for `window` that there is nothing to do: for how long they have.
fn check_work(work: Option<&Work>, window: Duration) -> Result<Duration, Reason> {
    match work {
        Some(Work::IdleFor(idle)) if *idle >= window => Ok(*idle),
        Some(Work::IdleFor(idle)) => Err(Reason::RecentWork { idle: *idle, window }),
        Some(Work::NotIdle(why)) => Err(Reason::Work(why.clone())),
        None => Err(Reason::Work(WorkNotIdle::NotRead)),
    }
}

/// Whether it may be scaled to zero at all, however busy it is.
fn check_may_be_scaled(now: Instant, resource: &Resource, history: &ScaleHistory) -> Result<(), Reason> {
    if !resource.keep_awake.is_empty() {
        return Err(Reason::KeptAwake(resource.keep_awake.as_str().into()));
    }
    if resource.record.format > Record::FORMAT {
        return Err(Reason::NewerRecord(resource.record.format));
    }
    match resource.record.phase {
        // One that failed to start and still has replicas (a crash loop) is scaled to zero like any other.
        Phase::Active => {}
        Phase::Failed if resource.replicas > 0 => {}
        state => return Err(Reason::NotActive(state)),
    }
    if resource.replicas == 0 {
        return Err(Reason::NoReplicas);
    }
    match history.failure.as_ref().filter(|failure| now < failure.until) {
        Some(failure) => Err(Reason::Failed(failure.clone())),
        None => Ok(()),
    }
}

fn check_only_requests_metric(metrics: &[ScaleResource]) -> Result<(), Reason> {
    match metrics.iter().find(|metric| metric.metric_name != REQUESTS) {
        Some(unknown) => Err(Reason::UnknownMetric(
            format!(
                "the metric source dlx has no metric {:?}: it counts {REQUESTS:?} only",
                unknown.metric_name
            )
            .into(),
        )),
        None => Ok(()),
    }
}

/// Every DLX reported, and nothing in flight: else none would confirm a drain.
fn check_nothing_in_flight(source: &DlxReports, samples: &[Sample]) -> Result<(), Reason> {
    if let Some(unknown) = &source.unknown {
        return Err(Reason::ActivityUnknown(unknown.clone()));
    }
    check_one_sample_per_dlx(&source.members, samples)?;
    let (in_flight, held) = samples.iter().fold((0_u64, 0_u64), |(in_flight, held), sample| {
        (in_flight.saturating_add(sample.in_flight), held.saturating_add(sample.held))
    });
    if in_flight > 0 || held > 0 {
        return Err(Reason::InFlight { in_flight, held });
    }
    Ok(())
}

/// Every DLX reported the resource, and each once.
fn check_one_sample_per_dlx(members: &[Arc<str>], samples: &[Sample]) -> Result<(), Reason> {
    // The source does not say "no DLX" with an empty list; should it, nothing is proved.
    if members.is_empty() {
        return Err(Reason::ActivityUnknown(ActivityUnknown::NoDlx));
    }
    for member in members {
        match samples.iter().filter(|sample| sample.member == *member).count() {
            1 => {}
            0 => return Err(Reason::NoSample { member: member.clone() }),
            _ => return Err(Reason::Duplicate { member: member.clone() }),
        }
    }
    Ok(())
}

/// Whether the DLXs' counts of one metric allow scaling to zero: `Ok` with its value, if the value decides.
/// `listed`: for how long the resource has been there.
fn check_request_count(
    metric: &ScaleResource,
    samples: &[Sample],
    listed: Duration,
) -> Result<Option<Idle>, Reason> {
    let window = metric.window_size;
    if samples.is_empty() {
        return Err(Reason::ActivityUnknown(ActivityUnknown::NoDlx));
    }
    // Known to be busy, however little of the window is known.
    let last = samples.iter().filter_map(|sample| sample.idle.filter(|idle| *idle < window)).min();
    if let Some(idle) = last.filter(|_| metric.threshold == 0.0) {
        return Err(Reason::Active { idle, window });
    }
    // One that began within the window, and has missed nothing since, knows all that it did.
    let short =
        |sample: &&Sample| sample.counted_for < window && !(sample.counted_since_start && listed >= window);
    if let Some(sample) = samples.iter().find(short) {
        return Err(Reason::Short { member: sample.member.clone(), counted_for: sample.counted_for, window });
    }
    if metric.threshold == 0.0 {
        // The last activity is finer than a count: a request that began before the window may have ended in it.
        return match samples.iter().filter_map(Sample::idle_for).min() {
            Some(idle) if idle < window => Err(Reason::Active { idle, window }),
            _ => Ok(None),
        };
    }
    let mut value = 0_u64;
    for sample in samples {
        let Some(count) = sample.count(window) else {
            return Err(Reason::NoValue { member: sample.member.clone(), metric: metric.wire_name() });
        };
        value = value.saturating_add(count);
    }
    #[expect(
        clippy::cast_precision_loss,
        reason = "a count of more than 2^53 requests is above any threshold in use"
    )]
    check_threshold(metric, value as f64).map(Some)
}

fn check_threshold(metric: &ScaleResource, value: f64) -> Result<Idle, Reason> {
    let (name, threshold) = (metric.wire_name(), metric.threshold);
    // "Not above" would take a threshold that is no number for one that is never reached.
    if value <= threshold {
        Ok(Idle::Below { metric: name, value, threshold })
    } else {
        Err(Reason::Above { metric: name, value, threshold })
    }
}

/// Whether another source's readings of one metric allow scaling to zero.
fn check_reading(metric: &ScaleResource, readings: &[MetricReading]) -> Result<Idle, Reason> {
    let Some(MetricReading { metric: name, value, coverage }) = MetricReading::find(readings, metric) else {
        return Err(Reason::NoReading { metric: metric.wire_name().into() });
    };
    let idle = match value {
        MetricValue::Number(value) if !value.is_finite() || *value < 0.0 => {
            return Err(Reason::NotANumber { metric: name.clone(), value: *value });
        }
        // Known to be busy, however little of the window is known.
        MetricValue::Number(value) => check_threshold(metric, *value)?,
        MetricValue::Absent { idle: true } => Idle::Absent { metric: name.clone() },
        MetricValue::Absent { idle: false } => return Err(Reason::NoReading { metric: name.clone() }),
        MetricValue::Several => return Err(Reason::Several { metric: name.clone() }),
        MetricValue::Unknown(state) => return Err(Reason::UnknownMetric(state.clone())),
        MetricValue::Failed(reason) => {
            return Err(Reason::ActivityUnknown(ActivityUnknown::SourceFailed(reason.clone())));
        }
    };
    let uncovered = || Reason::Incomplete {
        metric: name.clone(),
        coverage: coverage.clone(),
        window: metric.window_size,
    };
    match coverage {
        Completeness::Scrapes { seen: SampleCount::Failed(reason), .. } => {
            Err(Reason::ActivityUnknown(ActivityUnknown::SourceFailed(reason.clone())))
        }
        coverage if coverage.covers(metric.window_size) => Ok(idle),
        _ => Err(uncovered()),
    }
}

/// Whether a resource is left alone for a window after this.
fn delays_scale_down(event: ScaleEvent) -> bool {
    match event {
        ScaleEvent::ResourceUpdated
        | ScaleEvent::ScaleFromZeroStarted
        | ScaleEvent::ScaleFromZeroCompleted => true,
        ScaleEvent::ScaleToZeroCompleted => false,
    }
}

// === impl Decision ===

impl Decision {
    /// `keep` or `to_zero`.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Keep(_) => "keep",
            Self::ScaleToZero(_) => "scale_to_zero",
        }
    }

    /// The permanent obstacle to scaling to zero, if any. The same text as long as it is the same; it is published once.
    pub(crate) fn refusal(&self) -> Option<String> {
        match self {
            Self::Keep(reason) => reason.refusal(),
            Self::ScaleToZero(_) => None,
        }
    }

    /// The reason in one word, for metrics; stable.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Keep(reason) => reason.code(),
            Self::ScaleToZero(idle) => idle.code(),
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep(reason) => reason.fmt(f),
            Self::ScaleToZero(idle) => idle.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests;
