//! Whether a resource may go to zero: a pure function, and the rules it knows.
//!
//! One principle is behind all of them: **an error or a missing value is never zero.** Whatever is not known for
//! certain keeps a resource awake, and says so.

use std::{fmt, sync::Arc, time::Duration};

use scaler_types::{Path, Resource, Row, ScaleEvent, ScaleResource, State, duration::short};
use tokio::time::Instant;

use crate::metrics::{REQUESTS, Sample, Source, Unknown};

/// What is to be done with a resource, and why.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Leave it as it is.
    Keep(Reason),
    /// Try to put it to zero.
    ToZero(Idle),
}

/// Why a resource is left as it is.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// Path direct is not in this build.
    PathDirect,
    /// With path external the DLXs see its requests only while it sleeps: they cannot tell whether it is idle.
    PathExternal,
    /// Its row was written by a newer build, in this format.
    NewerRow(u32),
    /// Its row is not `active`: somebody is at work on it, or it sleeps.
    NotActive(State),
    /// It has no replicas.
    AtZero,
    /// Neither the resource nor the namespace file names a metric.
    NoMetrics,
    /// The metric source does not know this metric.
    UnknownMetric(String),
    /// Earlier tries to scale it failed.
    Failed(Failure),
    /// The metric source could not tell.
    Source(Unknown),
    /// A DLX told nothing of it.
    NoSample {
        /// Who.
        member: Arc<str>,
    },
    /// A DLX told of it more than once.
    Duplicate {
        /// Who.
        member: Arc<str>,
    },
    /// A DLX did not tell this metric.
    NoValue {
        /// Who.
        member: Arc<str>,
        /// The metric's name on the wire.
        metric: String,
    },
    /// A DLX has counted for less than the window: it knows nothing of the time before.
    Short {
        /// Who.
        member: Arc<str>,
        /// For how long it has counted.
        counting: Duration,
        /// The window.
        window: Duration,
    },
    /// Requests are on their way: no DLX would confirm.
    InFlight {
        /// Forwarded and not yet answered.
        in_flight: u64,
        /// Held.
        held: u64,
    },
    /// The last activity was less than the window ago.
    Active {
        /// How long ago.
        idle: Duration,
        /// The window.
        window: Duration,
    },
    /// The metric's value is above its threshold (or cannot be compared with it).
    Above {
        /// The metric's name on the wire.
        metric: String,
        /// Its value, all DLXs together.
        value: u64,
        /// The threshold.
        threshold: f64,
    },
    /// Something happened to its scale less than the largest window ago, as this process saw it.
    Event {
        /// What.
        event: ScaleEvent,
        /// How long ago this process saw it.
        ago: Duration,
        /// The largest window.
        window: Duration,
    },
    /// A DLX left less than the largest window ago, and with it what it saw since it was last asked.
    MemberLeft {
        /// How long ago this process noticed.
        ago: Duration,
        /// The largest window.
        window: Duration,
    },
}

/// How it is known that a resource is idle.
#[derive(Clone, Debug, PartialEq)]
pub enum Idle {
    /// No activity at any DLX.
    Quiet {
        /// For how long, at least.
        idle: Duration,
    },
    /// Every metric is at or below its threshold.
    Below {
        /// The name on the wire of the metric that came closest, with a threshold above zero.
        metric: String,
        /// Its value, all DLXs together.
        value: u64,
        /// Its threshold.
        threshold: f64,
    },
}

/// What this process remembers of a resource, by its own monotonic clock. Times of different hosts are never compared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Past {
    /// The last thing that happened to its scale, and when this process saw it.
    pub event: Option<(ScaleEvent, Instant)>,
    /// When this process last noticed that a DLX was gone.
    pub member_left: Option<Instant>,
    /// Tries to scale it that failed, one after another.
    pub failure: Option<Failure>,
}

/// Tries to scale a resource that failed, one after another.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// How many.
    pub tries: u32,
    /// What went wrong with the last one.
    pub reason: Arc<str>,
    /// No further try before.
    pub until: Instant,
}

/// Whether `resource` may go to zero.
///
/// `metrics` are the resource's own or, where it brings none, its namespace's defaults. `source` says how far the
/// metric source is to be believed, and `samples` is what it told of this resource.
pub fn decide(
    now: Instant,
    resource: &Resource,
    metrics: &[ScaleResource],
    source: &Source,
    samples: &[Sample],
    past: &Past,
) -> Decision {
    match idle(now, resource, metrics, source, samples, past) {
        Ok(idle) => Decision::ToZero(idle),
        Err(reason) => Decision::Keep(reason),
    }
}

fn idle(
    now: Instant,
    resource: &Resource,
    metrics: &[ScaleResource],
    source: &Source,
    samples: &[Sample],
    past: &Past,
) -> Result<Idle, Reason> {
    if resource.path == Path::Direct {
        return Err(Reason::PathDirect);
    }
    if resource.path == Path::External {
        return Err(Reason::PathExternal);
    }
    if resource.row.format > Row::FORMAT {
        return Err(Reason::NewerRow(resource.row.format));
    }
    if resource.row.state != State::Active {
        return Err(Reason::NotActive(resource.row.state));
    }
    if resource.replicas == 0 {
        return Err(Reason::AtZero);
    }
    let Some(largest) = metrics.iter().map(|metric| metric.window_size).max() else {
        return Err(Reason::NoMetrics);
    };
    if let Some(unknown) = metrics.iter().find(|metric| metric.metric_name != REQUESTS) {
        return Err(Reason::UnknownMetric(unknown.metric_name.clone()));
    }
    if let Some(failure) = past.failure.as_ref().filter(|failure| now < failure.until) {
        return Err(Reason::Failed(failure.clone()));
    }
    if let Some(unknown) = &source.unknown {
        return Err(Reason::Source(unknown.clone()));
    }
    one_sample_of_each(&source.members, samples)?;
    let (in_flight, held) = samples.iter().fold((0_u64, 0_u64), |(in_flight, held), sample| {
        (in_flight.saturating_add(sample.in_flight), held.saturating_add(sample.held))
    });
    if in_flight > 0 || held > 0 {
        return Err(Reason::InFlight { in_flight, held });
    }
    let mut below = None;
    for metric in metrics {
        let value = within(metric, samples)?;
        below = value
            .map(|value| Idle::Below { metric: metric.wire_name(), value, threshold: metric.threshold })
            .or(below);
    }
    if let Some((event, seen)) = past.event
        && delays(event)
        && now.duration_since(seen) < largest
    {
        return Err(Reason::Event { event, ago: now.duration_since(seen), window: largest });
    }
    if let Some(left) = past.member_left.filter(|left| now.duration_since(*left) < largest) {
        return Err(Reason::MemberLeft { ago: now.duration_since(left), window: largest });
    }
    let quiet = samples.iter().map(Sample::idle_for).min().unwrap_or_default();
    Ok(below.unwrap_or(Idle::Quiet { idle: quiet }))
}

/// Every DLX told of the resource, and each once.
fn one_sample_of_each(members: &[Arc<str>], samples: &[Sample]) -> Result<(), Reason> {
    // The source does not say "no members" with an empty list; should it, nobody vouches for anything.
    if members.is_empty() {
        return Err(Reason::Source(Unknown::NoMembers));
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

/// Whether one metric lets the resource go to zero: `Ok` with its value, where the value decides.
fn within(metric: &ScaleResource, samples: &[Sample]) -> Result<Option<u64>, Reason> {
    let window = metric.window_size;
    if let Some(sample) = samples.iter().find(|sample| sample.counting < window) {
        return Err(Reason::Short { member: sample.member.clone(), counting: sample.counting, window });
    }
    if metric.threshold == 0.0 {
        // The last activity is finer than a count: a request that began before the window may have ended in it.
        return match samples.iter().map(Sample::idle_for).min() {
            Some(idle) if idle >= window => Ok(None),
            idle => Err(Reason::Active { idle: idle.unwrap_or_default(), window }),
        };
    }
    let mut value = 0_u64;
    for sample in samples {
        let Some(count) = sample.count(window) else {
            return Err(Reason::NoValue { member: sample.member.clone(), metric: metric.wire_name() });
        };
        value = value.saturating_add(count);
    }
    // "Not above" would take a threshold that is no number for one that is never reached.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a count of more than 2^53 requests is above any threshold in use"
    )]
    if value as f64 <= metric.threshold {
        Ok(Some(value))
    } else {
        Err(Reason::Above { metric: metric.wire_name(), value, threshold: metric.threshold })
    }
}

/// Whether a resource is left alone for a window after this.
fn delays(event: ScaleEvent) -> bool {
    match event {
        ScaleEvent::ResourceUpdated
        | ScaleEvent::ScaleFromZeroStarted
        | ScaleEvent::ScaleFromZeroCompleted => true,
        ScaleEvent::ScaleToZeroStarted | ScaleEvent::ScaleToZeroCompleted => false,
    }
}

fn event_name(event: ScaleEvent) -> &'static str {
    match event {
        ScaleEvent::ResourceUpdated => "resourceUpdated",
        ScaleEvent::ScaleFromZeroStarted => "scaleFromZeroStarted",
        ScaleEvent::ScaleFromZeroCompleted => "scaleFromZeroCompleted",
        ScaleEvent::ScaleToZeroStarted => "scaleToZeroStarted",
        ScaleEvent::ScaleToZeroCompleted => "scaleToZeroCompleted",
    }
}

// === impl Decision ===

impl Decision {
    /// `keep` or `to_zero`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Keep(_) => "keep",
            Self::ToZero(_) => "to_zero",
        }
    }

    /// The reason in one word, for metrics; stable.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Keep(reason) => reason.code(),
            Self::ToZero(Idle::Quiet { .. }) => "quiet",
            Self::ToZero(Idle::Below { .. }) => "below_threshold",
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep(reason) => reason.fmt(f),
            Self::ToZero(idle) => idle.fmt(f),
        }
    }
}

// === impl Reason ===

impl Reason {
    fn code(&self) -> &'static str {
        match self {
            Self::PathDirect => "path_direct",
            Self::PathExternal => "path_external",
            Self::NewerRow(_) => "newer_row",
            Self::NotActive(_) => "not_active",
            Self::AtZero => "at_zero",
            Self::NoMetrics => "no_metrics",
            Self::UnknownMetric(_) => "unknown_metric",
            Self::Failed(_) => "scale_failed",
            Self::Source(Unknown::Failed(_)) => "source_failed",
            Self::Source(Unknown::NoMembers) => "no_members",
            Self::Source(Unknown::Silent(_)) => "member_silent",
            Self::NoSample { .. } => "no_sample",
            Self::Duplicate { .. } => "duplicate_sample",
            Self::NoValue { .. } => "no_value",
            Self::Short { .. } => "short_sample",
            Self::InFlight { .. } => "in_flight",
            Self::Active { .. } => "active",
            Self::Above { .. } => "above_threshold",
            Self::Event { .. } => "recent_event",
            Self::MemberLeft { .. } => "member_left",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PathDirect => f.write_str("path direct is not in this build: use path always"),
            Self::PathExternal => f.write_str(
                "with path external its requests pass the DLXs only while it sleeps, so the metric source dlx cannot tell whether it is idle",
            ),
            Self::NewerRow(format) => {
                write!(f, "its row has format {format}, this build knows {}", Row::FORMAT)
            }
            Self::NotActive(State::Asleep) => f.write_str("asleep"),
            Self::NotActive(state) => write!(f, "its row says {state}"),
            Self::AtZero => f.write_str("at zero"),
            Self::NoMetrics => {
                f.write_str("no metric says when it is idle: set scaleResources in the file's defaults")
            }
            Self::UnknownMetric(name) => {
                write!(f, "the metric source dlx does not know {name:?}: it counts {REQUESTS:?} only")
            }
            Self::Failed(failure) => {
                let Failure { tries, reason, .. } = failure;
                write!(
                    f,
                    "the last {tries} tries to scale it failed ({reason}); the next one comes after a pause"
                )
            }
            Self::Source(unknown) => unknown.fmt(f),
            Self::NoSample { member } => write!(f, "DLX {member} tells nothing of it"),
            Self::Duplicate { member } => write!(f, "DLX {member} tells of it more than once"),
            Self::NoValue { member, metric } => write!(f, "DLX {member} does not tell {metric}"),
            Self::Short { member, counting, window } => write!(
                f,
                "DLX {member} has counted for {} only, the window is {}",
                short(rounded(*counting)),
                short(*window)
            ),
            Self::InFlight { in_flight, held } => write!(f, "{in_flight} requests in flight, {held} held"),
            Self::Active { idle, window } => {
                write!(f, "active {} ago, the window is {}", short(rounded(*idle)), short(*window))
            }
            Self::Above { metric, value, threshold } => {
                write!(f, "{metric} is {value}, the threshold {threshold}")
            }
            Self::Event { event, ago, window } => write!(
                f,
                "{} {} ago, the largest window is {}",
                event_name(*event),
                short(rounded(*ago)),
                short(*window)
            ),
            Self::MemberLeft { ago, window } => write!(
                f,
                "a DLX left {} ago with what it had counted, the largest window is {}",
                short(rounded(*ago)),
                short(*window)
            ),
        }
    }
}

// === impl Idle ===

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quiet { idle } => write!(f, "idle for {}", short(rounded(*idle))),
            Self::Below { metric, value, threshold } => {
                write!(f, "{metric} is {value}, not above its threshold {threshold}")
            }
        }
    }
}

/// For people: to the millisecond, from a minute on to the second.
pub fn rounded(duration: Duration) -> Duration {
    match duration.as_secs() {
        0..60 => Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
        seconds => Duration::from_secs(seconds),
    }
}

#[cfg(test)]
mod tests;
