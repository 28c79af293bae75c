//! What metric sources tell of resources.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use daemon::members::registered::Registered;
use scaler_types::{Resource, duration::short};

/// The one metric the DLXs know: requests, and TCP connections where they do not know HTTP.
pub const REQUESTS: &str = "requests";

/// What was told of all resources.
#[derive(Clone, Debug, PartialEq)]
pub struct Activity {
    /// How far the DLXs are to be believed.
    pub source: DlxReports,
    /// What they told, by the resource's place in the list that was asked for.
    pub samples: Vec<Vec<Sample>>,
    /// What another source told, in the same order; `None`: the DLXs are the source.
    pub readings: Option<Vec<Vec<MetricReading>>>,
}

/// Which DLXs were asked, and whether all of them answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DlxReports {
    /// Who must have told of each resource.
    pub members: Vec<Arc<str>>,
    /// Who has given a last report, which is among the samples as long as a window needs it.
    pub reported: Vec<Arc<str>>,
    /// Who had registered when the members were read.
    pub registered: Registered,
    /// Why nothing is known of any resource, if so.
    pub unknown: Option<ActivityUnknown>,
}

/// Why nothing is known. Cheap to clone: it may be the reason of ten thousand resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActivityUnknown {
    /// The source failed.
    SourceFailed(Arc<str>),
    /// There is no DLX: nobody could hold what comes.
    NoDlx,
    /// Live DLXs that did not answer.
    Unreachable(Arc<[String]>),
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
    /// It missed nothing since it began, however short that is.
    pub since_start: bool,
    /// Requests by window.
    pub counts: Vec<(Duration, u64)>,
}

/// What a source beside the DLXs told of one metric of one resource.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricReading {
    /// The metric's name on the wire.
    pub metric: Arc<str>,
    /// Its value.
    pub value: MetricValue,
    /// How far back that is known.
    pub coverage: Completeness,
}

/// A metric's value, or why there is none.
#[derive(Clone, Debug, PartialEq)]
pub enum MetricValue {
    /// In the metric's own unit; perhaps no number at all.
    Number(f64),
    /// The source told none. `idle`: then it was idle, if its coverage proves that anyone looked.
    Absent {
        /// See there.
        idle: bool,
    },
    /// The source told several.
    Several,
    /// The source has no such metric; what it has.
    Unknown(Arc<str>),
    /// The source failed.
    Failed(Arc<str>),
}

/// How far back a value is known.
#[derive(Clone, Debug, PartialEq)]
pub enum Completeness {
    /// The source answers for the whole window.
    Guaranteed,
    /// The source says that its value is of this time only.
    Only(Duration),
    /// It follows from the number of scrapes.
    Scrapes {
        /// How many there were.
        seen: SampleCount,
        /// How many of them, an interval apart, reach back as far as the window does.
        needed: u64,
        /// How many there can be: with more the interval is not what it is said to be.
        most: u64,
    },
}

/// A number of scrapes, or why there is none.
#[derive(Clone, Debug, PartialEq)]
pub enum SampleCount {
    /// Of the resource's own target or series.
    Count(f64),
    /// Nothing was told of it.
    Nothing,
    /// Several numbers were.
    Several,
    /// The source failed.
    Failed(Arc<str>),
}

/// What a resource's metrics are read from.
#[derive(Clone, Copy, Debug)]
pub enum Measurements<'a> {
    /// What the DLXs told: every request passes one.
    Samples,
    /// What another source told, in the order of the metrics.
    Readings(&'a [MetricReading]),
}

/// Where each resource is in a list, by namespace and name; the first place of one that is listed twice.
pub(crate) type ResourceIndex<'a> = HashMap<&'a str, HashMap<&'a str, usize>>;

pub(crate) fn index_by_name(resources: &[Resource]) -> ResourceIndex<'_> {
    let mut places = ResourceIndex::new();
    for (place, resource) in resources.iter().enumerate() {
        places.entry(&resource.id.namespace).or_default().entry(&resource.id.name).or_insert(place);
    }
    places
}

// === impl ActivityUnknown ===

impl fmt::Display for ActivityUnknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SourceFailed(reason) => write!(f, "the metric source failed: {reason}"),
            Self::NoDlx => f.write_str("there is no DLX to hold requests"),
            Self::Unreachable(members) => write!(f, "no answer from DLX {}", members.join(", ")),
        }
    }
}

// === impl Sample ===

impl Sample {
    /// How long there has been no activity, as far as this DLX can tell; `None`: there never was any.
    pub fn idle_for(&self) -> Option<Duration> {
        if self.in_flight > 0 || self.held > 0 {
            return Some(Duration::ZERO);
        }
        match self.idle {
            None if self.since_start => None,
            // Never longer than it has counted.
            idle => Some(idle.unwrap_or(self.counting).min(self.counting)),
        }
    }

    /// The same DLX's, so much later, when it is gone: nothing has happened there since.
    pub fn later(mut self, by: Duration) -> Self {
        self.idle = self.idle.map(|idle| idle.saturating_add(by));
        self.counting = self.counting.saturating_add(by);
        if let Some(idle) = self.idle {
            self.counts.iter_mut().filter(|(window, _)| idle >= *window).for_each(|(_, count)| *count = 0);
        }
        self
    }

    /// Requests within `window`, if it told.
    pub fn count(&self, window: Duration) -> Option<u64> {
        self.counts.iter().find(|(asked, _)| *asked == window).map(|(_, count)| *count)
    }
}

// === impl MetricValue ===

impl fmt::Display for MetricValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(value) => value.fmt(f),
            Self::Absent { .. } => f.write_str("no value"),
            Self::Several => f.write_str("several values"),
            Self::Unknown(known) => f.write_str(known),
            Self::Failed(reason) => write!(f, "the metric source failed: {reason}"),
        }
    }
}

// === impl Completeness ===

impl fmt::Display for Completeness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guaranteed => f.write_str("the source vouches for it"),
            Self::Only(time) => write!(f, "it covers only the last {}", short(*time)),
            Self::Scrapes { seen: SampleCount::Nothing, .. } => {
                f.write_str("no scrape was counted (does the result of sampleCountQuery have its label?)")
            }
            Self::Scrapes { seen: SampleCount::Several, .. } => {
                f.write_str("several scrape counts were returned")
            }
            Self::Scrapes { seen: SampleCount::Failed(reason), .. } => {
                write!(f, "the metric source failed: {reason}")
            }
            Self::Scrapes { seen: SampleCount::Count(seen), needed, most } => {
                #[expect(clippy::cast_precision_loss, reason = "nobody scrapes 2^53 times")]
                let too_many = *seen > *most as f64;
                match too_many {
                    true => {
                        write!(
                            f,
                            "{seen} scrapes, more than the {most} possible with this scrapeInterval: the actual interval is shorter"
                        )
                    }
                    false => write!(f, "{seen} scrapes, {needed} needed"),
                }
            }
        }
    }
}
