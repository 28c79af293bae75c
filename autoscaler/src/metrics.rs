//! What metric sources tell of resources.
//!
//! One source so far: the DLXs themselves ([`dlx`]), which every request passes.

pub mod dlx;

use std::{fmt, sync::Arc, time::Duration};

/// The one metric the DLXs know: requests, and TCP connections where they do not know HTTP.
pub const REQUESTS: &str = "requests";

/// What a source told.
#[derive(Clone, Debug, PartialEq)]
pub struct Activity {
    /// How far it is to be believed.
    pub source: Source,
    /// What it told, by the resource's place in the list that was asked for.
    pub samples: Vec<Vec<Sample>>,
}

/// Who was asked, and whether all of them answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// Who must have told of each resource.
    pub members: Vec<Arc<str>>,
    /// Why nothing is known of any resource, if so.
    pub unknown: Option<Unknown>,
}

/// Why nothing is known of any resource. Cheap to clone: it may be the reason of ten thousand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// The source failed.
    Failed(Arc<str>),
    /// There is no DLX: nobody could hold what comes.
    NoMembers,
    /// Live DLXs that did not answer.
    Silent(Arc<[String]>),
}

/// What one DLX told of one resource. Durations only: clocks of different hosts are never compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Who told.
    pub member: Arc<str>,
    /// Requests since it counts.
    pub requests: u64,
    /// Requests forwarded and not yet answered, open upgraded sockets and TCP connections included.
    pub in_flight: u64,
    /// Requests held.
    pub held: u64,
    /// How long ago the last activity was; `None`: there was none since it counts.
    pub idle: Option<Duration>,
    /// For how long it has counted.
    pub counting: Duration,
    /// Requests by window.
    pub counts: Vec<(Duration, u64)>,
}

// === impl Unknown ===

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(reason) => write!(f, "the metric source failed: {reason}"),
            Self::NoMembers => f.write_str("there is no DLX, nobody could hold what comes"),
            Self::Silent(members) => write!(f, "no answer from DLX {}", members.join(", ")),
        }
    }
}

// === impl Sample ===

impl Sample {
    /// How long there has been no activity, as far as this DLX can tell: never longer than it has counted.
    pub fn idle_for(&self) -> Duration {
        if self.in_flight > 0 || self.held > 0 {
            return Duration::ZERO;
        }
        self.idle.unwrap_or(self.counting).min(self.counting)
    }

    /// Requests within `window`, if it told.
    pub fn count(&self, window: Duration) -> Option<u64> {
        self.counts.iter().find(|(asked, _)| *asked == window).map(|(_, count)| *count)
    }
}
