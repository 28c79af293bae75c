//! Why a resource is kept as it is, or how it is known that it is idle, and how people are told.

use std::{fmt, sync::Arc, time::Duration};

use scaler_types::{Row, ScaleEvent, State, duration::short, protocol::Gap};

use super::Failure;
use crate::{
    interception::NotReady,
    observe::{Coverage, Unknown},
    telemetry::rounded,
};

/// Why a resource is left as it is.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// Its owner, or another scaler, wants it awake.
    KeptAwake(Arc<str>),
    /// Its interception does not allow it.
    Interception(NotReady),
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
    /// The metric source does not know this metric, and what it knows.
    UnknownMetric(Arc<str>),
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
        /// Its value.
        value: f64,
        /// The threshold.
        threshold: f64,
    },
    /// The metric source told no value of it.
    NoReading {
        /// The metric's name on the wire.
        metric: Arc<str>,
    },
    /// The metric source told several values of it.
    Several {
        /// The metric's name on the wire.
        metric: Arc<str>,
    },
    /// What the metric source told is no number, infinite or below zero: nothing that says how busy it was.
    NotANumber {
        /// The metric's name on the wire.
        metric: Arc<str>,
        /// What it told.
        value: f64,
    },
    /// The metric source does not know the whole window.
    Uncovered {
        /// The metric's name on the wire.
        metric: Arc<str>,
        /// What it knows.
        coverage: Coverage,
        /// The window.
        window: Duration,
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
    /// What it runs now is being rolled out.
    RollingOut {
        /// What that waits for.
        status: Arc<str>,
        /// How long it may go without progress.
        deadline: Duration,
    },
    /// What it runs now has been ready for less than the largest window, as this process saw it.
    Ready {
        /// How long ago it was seen ready first.
        ago: Duration,
        /// The largest window.
        window: Duration,
    },
    /// Its users want it awake for longer after a wake.
    MinAwake {
        /// How long ago it was woken, or seen first by this process.
        ago: Duration,
        /// How long they want.
        wanted: Duration,
    },
    /// Less than the largest window ago not everything was known of what the DLXs did.
    Gap {
        /// What is missing.
        gap: Gap,
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
    /// Its owner asked for it, or a person did.
    Asked,
    /// A metric has no value, although its target was scraped for the whole window.
    Absent {
        /// The metric's name on the wire.
        metric: Arc<str>,
    },
    /// Every metric is at or below its threshold.
    Below {
        /// The name on the wire of the metric that came closest, where its value decides.
        metric: String,
        /// Its value.
        value: f64,
        /// Its threshold.
        threshold: f64,
    },
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

// === impl Reason ===

impl Reason {
    /// See [`super::Decision::refusal`].
    pub(super) fn refusal(&self) -> Option<String> {
        match self {
            Self::Interception(not_ready) if !not_ready.is_permanent() => None,
            Self::Interception(_)
            | Self::PathExternal
            | Self::NewerRow(_)
            | Self::NoMetrics
            | Self::UnknownMetric(_)
            | Self::Several { .. }
            | Self::NotANumber { .. }
            | Self::Source(Unknown::NoMembers) => Some(self.code().to_owned()),
            Self::Source(unknown @ Unknown::Silent(_)) => Some(unknown.to_string()),
            // What it says may differ each time.
            Self::Source(Unknown::Failed(_)) => Some(self.code().to_owned()),
            _ => None,
        }
    }

    /// In one word, for metrics; stable.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::KeptAwake(_) => "kept_awake",
            Self::Interception(not_ready) => not_ready.code(),
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
            Self::NoReading { .. } => "no_value",
            Self::Several { .. } => "duplicate_sample",
            Self::NotANumber { .. } => "not_a_number",
            Self::Uncovered { .. } => "short_sample",
            Self::Event { .. } => "recent_event",
            Self::RollingOut { .. } => "rolling_out",
            Self::Ready { .. } => "recently_ready",
            Self::MinAwake { .. } => "min_awake",
            Self::Gap { gap: Gap::Left(_), .. } => "member_left",
            Self::Gap { gap: Gap::NewLeader, .. } => "new_leader",
            Self::Gap { gap: Gap::Unseen, .. } => "members_unseen",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeptAwake(reason) => write!(f, "kept awake: {reason}"),
            Self::Interception(not_ready) => not_ready.fmt(f),
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
            Self::UnknownMetric(known) => f.write_str(known),
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
            Self::NoReading { metric } => write!(f, "the metric source tells no {metric} of it"),
            Self::Several { metric } => write!(
                f,
                "the metric source tells several values of {metric} for it: expected one, as with sum by (name)"
            ),
            Self::NotANumber { metric, value } => {
                write!(f, "{metric} is {value}, which says nothing of how busy it was")
            }
            Self::Uncovered { metric, coverage, window } => {
                write!(f, "{metric} is not known for the whole window of {}: {coverage}", short(*window))
            }
            Self::Event { event, ago, window } => write!(
                f,
                "{} {} ago, the largest window is {}",
                event_name(*event),
                short(rounded(*ago)),
                short(*window)
            ),
            Self::RollingOut { status, deadline } => write!(
                f,
                "its rollout is not complete: {status} (it may go without progress for {})",
                short(*deadline)
            ),
            Self::Ready { ago, window } => write!(
                f,
                "ready for {} since its rollout or its wake, the largest window is {}",
                short(rounded(*ago)),
                short(*window)
            ),
            Self::MinAwake { ago, wanted } => write!(
                f,
                "woken {} ago, it stays awake for {} after a wake",
                short(rounded(*ago)),
                short(*wanted)
            ),
            Self::Gap { gap, ago, window } => {
                let (ago, window) = (short(rounded(*ago)), short(*window));
                match gap {
                    Gap::Left(dlx) => {
                        write!(f, "DLX {dlx} was gone {ago} ago without a report after its last request")
                    }
                    Gap::NewLeader => write!(
                        f,
                        "this autoscaler has followed the DLXs for {ago}: what those that left before had counted is not known"
                    ),
                    Gap::Unseen => write!(f, "DLXs may have come and gone unseen until {ago} ago"),
                }?;
                write!(f, ", the largest window is {window}")
            }
        }
    }
}

// === impl Idle ===

impl Idle {
    /// In one word, for metrics; stable.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Quiet { .. } => "quiet",
            Self::Asked => "asked",
            Self::Absent { .. } => "absent",
            Self::Below { .. } => "below_threshold",
        }
    }
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quiet { idle } => write!(f, "idle for {}", short(rounded(*idle))),
            Self::Asked => f.write_str("asked for"),
            Self::Absent { metric } => {
                write!(f, "{metric} has no value, and its target was scraped all the while")
            }
            Self::Below { metric, value, threshold } => {
                write!(f, "{metric} is {value}, not above its threshold {threshold}")
            }
        }
    }
}
