//! Why a resource is kept as it is, or why it counts as idle, and the texts of both.

use std::{fmt, sync::Arc, time::Duration};

use scaler_types::{Phase, Record, ScaleEvent, duration::short, protocol::Gap};

use super::ScaleFailure;
use crate::{
    interception::InterceptionNotReady,
    observe::{ActivityUnknown, Completeness, work::WorkNotIdle},
    telemetry::rounded,
};

/// Why a resource is left as it is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reason {
    /// Its plugin lists it with what cannot be read, and why not: all else that is known of it may be out of date.
    Unreadable(Arc<str>),
    /// Its users, or another autoscaler, keep it awake.
    KeptAwake(Arc<str>),
    /// Its interception does not allow it.
    Interception(InterceptionNotReady),
    /// Its traffic mode is one of a later version.
    ModeUnknown,
    /// In traffic mode external the DLXs see its requests only while it is asleep: they cannot measure its activity.
    TrafficModeExternal,
    /// Its record was written by a newer version, in this format.
    NewerRecord(u32),
    /// It is not `active`: being drained or woken, or asleep.
    NotActive(Phase),
    /// It has no replicas.
    NoReplicas,
    /// Neither the resource nor the namespace file names a metric.
    NoMetrics,
    /// The metric source does not know this metric, and what it knows.
    UnknownMetric(Arc<str>),
    /// Earlier attempts to scale it failed.
    Failed(ScaleFailure),
    /// The metric source could not report its activity.
    ActivityUnknown(ActivityUnknown),
    /// A DLX reported no activity of it.
    NoSample {
        /// The DLX.
        member: Arc<str>,
    },
    /// A DLX reported it more than once.
    Duplicate {
        /// The DLX.
        member: Arc<str>,
    },
    /// A DLX did not report this metric.
    NoValue {
        /// The DLX.
        member: Arc<str>,
        /// The metric's name on the wire.
        metric: String,
    },
    /// A DLX has counted for less than the window: it knows nothing of the time before.
    Short {
        /// The DLX.
        member: Arc<str>,
        /// For how long it has counted.
        counted_for: Duration,
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
    /// The metric source has no value of it.
    NoReading {
        /// The metric's name on the wire.
        metric: Arc<str>,
    },
    /// The metric source has several values of it.
    Several {
        /// The metric's name on the wire.
        metric: Arc<str>,
    },
    /// The value is not a number, infinite or below zero.
    NotANumber {
        /// The metric's name on the wire.
        metric: Arc<str>,
        /// The value.
        value: f64,
    },
    /// The metric source does not know the whole window.
    Incomplete {
        /// The metric's name on the wire.
        metric: Arc<str>,
        /// What it knows.
        coverage: Completeness,
        /// The window.
        window: Duration,
    },
    /// Its queues or metrics with a target have something to do, or that is not known.
    Work(WorkNotIdle),
    /// They have had nothing to do for less than the window, as far as this leader knows.
    RecentWork {
        /// For how long.
        idle: Duration,
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
    /// Its current revision is being rolled out.
    RollingOut {
        /// The reason the rollout is not complete.
        status: Arc<str>,
        /// How long it may go without progress.
        deadline: Duration,
    },
    /// Its current revision has been ready for less than the largest window, as this process saw it.
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
        /// The missing data.
        gap: Gap,
        /// How long ago this process noticed.
        ago: Duration,
        /// The largest window.
        window: Duration,
    },
}

/// How it is known that a resource is idle.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Idle {
    /// No activity at any DLX.
    Quiet {
        /// For how long, at least.
        idle: Duration,
    },
    /// Nothing was in its queues.
    NoWork {
        /// For how long, at least.
        idle: Duration,
    },
    /// Its users requested it, with an annotation or `autoscaler sleep`.
    Requested,
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
            | Self::TrafficModeExternal
            | Self::ModeUnknown
            | Self::NewerRecord(_)
            | Self::NoMetrics
            | Self::UnknownMetric(_)
            | Self::Several { .. }
            | Self::NotANumber { .. }
            | Self::ActivityUnknown(ActivityUnknown::NoDlx) => Some(self.code().to_owned()),
            Self::ActivityUnknown(unknown @ ActivityUnknown::Unreachable(_)) => Some(unknown.to_string()),
            Self::Work(work) if work.is_fault() => Some(self.code().to_owned()),
            // Its text may differ each time.
            Self::ActivityUnknown(ActivityUnknown::SourceFailed(_)) => Some(self.code().to_owned()),
            _ => None,
        }
    }

    /// In one word, for metrics; stable.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "unreadable",
            Self::KeptAwake(_) => "kept_awake",
            Self::Interception(not_ready) => not_ready.code(),
            Self::TrafficModeExternal => "traffic_mode_external",
            Self::ModeUnknown => "traffic_mode_unknown",
            Self::NewerRecord(_) => "newer_record",
            Self::NotActive(_) => "not_active",
            Self::NoReplicas => "no_replicas",
            Self::NoMetrics => "no_metrics",
            Self::UnknownMetric(_) => "unknown_metric",
            Self::Failed(_) => "scale_failed",
            Self::ActivityUnknown(ActivityUnknown::SourceFailed(_)) => "source_failed",
            Self::ActivityUnknown(ActivityUnknown::NoDlx) => "no_dlx",
            Self::ActivityUnknown(ActivityUnknown::Unreachable(_)) => "dlx_unreachable",
            Self::NoSample { .. } => "no_sample",
            Self::Duplicate { .. } => "duplicate_sample",
            Self::NoValue { .. } => "no_value",
            Self::Short { .. } => "incomplete_window",
            Self::InFlight { .. } => "in_flight",
            Self::Active { .. } => "active",
            Self::Above { .. } => "above_threshold",
            Self::NoReading { .. } => "no_value",
            Self::Several { .. } => "duplicate_sample",
            Self::NotANumber { .. } => "not_a_number",
            Self::Incomplete { .. } => "incomplete_window",
            Self::Work(work) => work.code(),
            Self::RecentWork { .. } => "recent_work",
            Self::Event { .. } => "recent_event",
            Self::RollingOut { .. } => "rolling_out",
            Self::Ready { .. } => "recently_ready",
            Self::MinAwake { .. } => "min_awake",
            Self::Gap { gap: Gap::Left(_), .. } => "dlx_left",
            Self::Gap { gap: Gap::NewLeader, .. } => "new_leader",
            Self::Gap { gap: Gap::Unseen, .. } => "dlxs_unnoticed",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => write!(f, "cannot read what its plugin lists for it: {error}; it is not scaled until this is corrected"),
            Self::KeptAwake(reason) => write!(f, "kept awake: {reason}"),
            Self::Interception(not_ready) => not_ready.fmt(f),
            Self::ModeUnknown => f.write_str("its traffic mode is one of a later version: upgrade the autoscaler"),
            Self::TrafficModeExternal => f.write_str(
                "in traffic mode external the DLXs see its requests only while it is asleep, so the metric source dlx cannot measure its activity: set metrics.source to prometheus or kubernetes",
            ),
            Self::NewerRecord(format) => {
                write!(f, "its record has format {format}, this version reads formats up to {}: upgrade this autoscaler", Record::FORMAT)
            }
            Self::NotActive(Phase::Asleep) => f.write_str("asleep"),
            Self::NotActive(state) => write!(f, "its phase is {state}"),
            Self::NoReplicas => f.write_str("it has no replicas"),
            Self::NoMetrics => {
                f.write_str("no metric defines when it is idle: set defaults.scaleResources in the namespace file")
            }
            Self::UnknownMetric(state) => f.write_str(state),
            Self::Failed(failure) => {
                let ScaleFailure { attempts, reason, .. } = failure;
                write!(
                    f,
                    "the last {attempts} attempts to scale it failed ({reason}); retried after a pause"
                )
            }
            Self::ActivityUnknown(unknown) => unknown.fmt(f),
            Self::NoSample { member } => write!(f, "DLX {member} reported no activity of it"),
            Self::Duplicate { member } => write!(f, "DLX {member} reported its activity more than once"),
            Self::NoValue { member, metric } => write!(f, "DLX {member} did not report {metric}"),
            Self::Short { member, counted_for, window } => write!(
                f,
                "DLX {member} has counted its requests for only {}, the window is {}",
                short(rounded(*counted_for)),
                short(*window)
            ),
            Self::InFlight { in_flight, held } => write!(f, "{in_flight} requests in flight, {held} held"),
            Self::Active { idle, window } => {
                write!(f, "active {} ago, the window is {}", short(rounded(*idle)), short(*window))
            }
            Self::Above { metric, value, threshold } => {
                write!(f, "{metric} is {value}, the threshold is {threshold}")
            }
            Self::NoReading { metric } => write!(f, "the metric source has no value of {metric} for it"),
            Self::Several { metric } => write!(
                f,
                "the metric source has several values of {metric} for it: aggregate them in the query, as with sum by (name)"
            ),
            Self::NotANumber { metric, value } => {
                write!(f, "{metric} is {value}, which is not a usable number")
            }
            Self::Incomplete { metric, coverage, window } => {
                write!(f, "{metric} is not complete for its window of {}: {coverage}", short(*window))
            }
            Self::Work(work) => work.fmt(f),
            Self::RecentWork { idle, window } => write!(
                f,
                "its queues have been empty for {}, the window is {}",
                short(rounded(*idle)),
                short(*window)
            ),
            Self::Event { event, ago, window } => write!(
                f,
                "{} {} ago, the largest window is {}",
                event_name(*event),
                short(rounded(*ago)),
                short(*window)
            ),
            Self::RollingOut { status, deadline } => write!(
                f,
                "its rollout is not complete: {status} (allowed to stall for {})",
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
                "woken {} ago, min-awake keeps it awake for {} after a wake",
                short(rounded(*ago)),
                short(*wanted)
            ),
            Self::Gap { gap, ago, window } => {
                let (ago, window) = (short(rounded(*ago)), short(*window));
                match gap {
                    Gap::Left(dlx) => {
                        write!(f, "DLX {dlx} left {ago} ago without a last report")
                    }
                    Gap::NewLeader => write!(
                        f,
                        "this autoscaler has watched the DLXs for only {ago}: counts of DLXs that left before are unknown"
                    ),
                    Gap::Unseen => write!(f, "the autoscaler could not watch the DLXs until {ago} ago: requests may not have been counted"),
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
            Self::NoWork { .. } => "no_work",
            Self::Requested => "requested",
            Self::Absent { .. } => "absent",
            Self::Below { .. } => "below_threshold",
        }
    }
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quiet { idle } => write!(f, "idle for {}", short(rounded(*idle))),
            Self::NoWork { idle } => write!(f, "its queues were empty for {}", short(rounded(*idle))),
            Self::Requested => f.write_str("requested"),
            Self::Absent { metric } => {
                write!(f, "{metric} has no value although its target was scraped for the whole window")
            }
            Self::Below { metric, value, threshold } => {
                write!(f, "{metric} is {value}, the threshold is {threshold}")
            }
        }
    }
}
