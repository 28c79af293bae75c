//! Whether a resource that is scaled by metrics has anything to do.

use std::{fmt, sync::Arc, time::Duration};

/// What the queues and metrics with a target say of a resource's work.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Work {
    /// All are known, and there has been none for so long.
    IdleFor(Duration),
    /// There is some, or that is not known.
    NotIdle(WorkNotIdle),
}

/// Why a resource may have something to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum WorkNotIdle {
    /// A queue holds messages: waiting, in flight, delayed.
    Messages {
        /// The queue.
        queue: Arc<str>,
        /// How many.
        messages: [u64; 3],
    },
    /// This leader has not read it yet.
    NotRead,
    /// A queue was not read lately, or not well.
    QueueUnknown {
        /// The queue.
        queue: Arc<str>,
        /// Why.
        why: Arc<str>,
    },
    /// The queue's broker does not show which messages its workers have taken, and nothing else says that they are done.
    InFlightNotShown {
        /// The queue.
        queue: Arc<str>,
    },
    /// A metric asks for replicas.
    Metric {
        /// Its name, for people.
        metric: Arc<str>,
        /// Its value.
        value: f64,
    },
    /// A metric is not known.
    MetricUnknown {
        /// Why.
        why: Arc<str>,
    },
}

/// What a user does about a queue whose broker does not show work in progress.
pub(crate) const SHOW_IN_FLIGHT: &str = "its broker does not show the messages that workers have taken: set scaler.dev/busy-probe, or scaler.dev/early-ack: accepted if losing one is acceptable";

// === impl WorkNotIdle ===

impl WorkNotIdle {
    /// In one word, for metrics; stable.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Messages { .. } => "messages",
            Self::NotRead => "queue_not_read",
            Self::QueueUnknown { .. } => "queue_unknown",
            Self::InFlightNotShown { .. } => "in_flight_not_shown",
            Self::Metric { .. } => "metric_above_zero",
            Self::MetricUnknown { .. } => "metric_unknown",
        }
    }

    /// Whether a user has to do something about it.
    pub(crate) fn is_fault(&self) -> bool {
        match self {
            Self::InFlightNotShown { .. } | Self::MetricUnknown { .. } => true,
            // That a queue cannot be read is published when it happens.
            Self::Messages { .. } | Self::NotRead | Self::QueueUnknown { .. } | Self::Metric { .. } => false,
        }
    }
}

impl fmt::Display for WorkNotIdle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Messages { queue, messages: [waiting, in_flight, delayed] } => {
                write!(f, "{queue} has {waiting} messages waiting, {in_flight} in flight, {delayed} delayed")
            }
            Self::NotRead => f.write_str("its queues and metrics have not been read yet"),
            Self::QueueUnknown { queue, why } => write!(f, "cannot read {queue}: {why}"),
            Self::InFlightNotShown { queue } => write!(f, "{queue} is empty, but {SHOW_IN_FLIGHT}"),
            Self::Metric { metric, value } => write!(f, "{metric} is {value}"),
            Self::MetricUnknown { why } => f.write_str(why),
        }
    }
}
