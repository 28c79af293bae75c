//! The metric sources' reports of resources.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use daemon::members::registered::Registered;
use scaler_types::{Resource, ScaleResource, duration::short};

/// The one metric the DLXs know: requests, and TCP connections where they do not know HTTP.
pub(crate) const REQUESTS: &str = "requests";

/// The activity of all resources.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Activity {
    /// How complete the DLXs' reports are.
    pub(crate) source: DlxReports,
    /// What they reported, in the order of the listed resources.
    pub(crate) samples: Vec<Vec<Sample>>,
    /// The readings of another source, in the same order; `None`: the DLXs are the source.
    pub(crate) readings: Option<Vec<Vec<MetricReading>>>,
}

/// Which DLXs were asked, and whether all of them answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct DlxReports {
    /// The DLXs that must have reported each resource.
    pub(crate) members: Vec<Arc<str>>,
    /// The DLXs that gave a last report, which is among the samples as long as a window needs it.
    pub(crate) reported: Vec<Arc<str>>,
    /// The DLXs that had registered when the members were read.
    pub(crate) registered: Registered,
    /// Why nothing is known of any resource, if so.
    pub(crate) unknown: Option<ActivityUnknown>,
}

/// Why nothing is known. Cheap to clone: it may be the reason of ten thousand resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ActivityUnknown {
    /// The source failed.
    SourceFailed(Arc<str>),
    /// There is no DLX to hold requests.
    NoDlx,
    /// Live DLXs that did not answer.
    Unreachable(Arc<[String]>),
}

/// One DLX's report of one resource. Durations only: clocks of different hosts are never compared.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    /// The DLX.
    pub(crate) member: Arc<str>,
    /// Requests since it counts.
    pub(crate) requests: u64,
    /// Requests forwarded and not yet answered, open upgraded sockets and TCP connections included.
    pub(crate) in_flight: u64,
    /// Requests held.
    pub(crate) held: u64,
    /// How long ago the last activity was; `None`: there was none since it counts.
    pub(crate) idle: Option<Duration>,
    /// For how long it has counted.
    pub(crate) counted_for: Duration,
    /// It missed nothing since it began, however short that is.
    pub(crate) counted_since_start: bool,
    /// Requests by window.
    pub(crate) counts: Vec<(Duration, u64)>,
}

/// A reading of one metric of one resource, of a source beside the DLXs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MetricReading {
    /// The metric's name on the wire.
    pub(crate) metric: Arc<str>,
    /// Its value.
    pub(crate) value: MetricValue,
    /// How far back that is known.
    pub(crate) coverage: Completeness,
}

/// A metric's value, or why there is none.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum MetricValue {
    /// In the metric's own unit; perhaps no number at all.
    Number(f64),
    /// The source has none. `idle`: this means idle, if the window is complete.
    Absent {
        /// See there.
        idle: bool,
    },
    /// The source has several.
    Several,
    /// The source has no such metric; what it has.
    Unknown(Arc<str>),
    /// The source failed.
    Failed(Arc<str>),
}

/// How far back a value is known.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Completeness {
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
pub(crate) enum SampleCount {
    /// Of the resource's own target or series.
    Count(f64),
    /// No count.
    Nothing,
    /// Several numbers were.
    Several,
    /// The source failed.
    Failed(Arc<str>),
}

/// The source of a resource's metrics.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Measurements<'a> {
    /// The samples of the DLXs: every request passes one.
    Samples,
    /// The readings of another source.
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
    /// How long there has been no activity, as far as this DLX knows; `None`: there never was any.
    pub(crate) fn idle_for(&self) -> Option<Duration> {
        if self.in_flight > 0 || self.held > 0 {
            return Some(Duration::ZERO);
        }
        match self.idle {
            None if self.counted_since_start => None,
            // Never longer than it has counted.
            idle => Some(idle.unwrap_or(self.counted_for).min(self.counted_for)),
        }
    }

    /// The same DLX's, so much later, when it is gone: nothing has happened there since.
    pub(crate) fn later(mut self, by: Duration) -> Self {
        self.idle = self.idle.map(|idle| idle.saturating_add(by));
        self.counted_for = self.counted_for.saturating_add(by);
        if let Some(idle) = self.idle {
            self.counts.iter_mut().filter(|(window, _)| idle >= *window).for_each(|(_, count)| *count = 0);
        }
        self
    }

    /// Requests within `window`, if it reported them.
    pub(crate) fn count(&self, window: Duration) -> Option<u64> {
        self.counts.iter().find(|(of_window, _)| *of_window == window).map(|(_, count)| *count)
    }
}

// === impl MetricReading ===

impl MetricReading {
    /// The reading of one metric, whatever its place among them.
    pub(crate) fn find<'a>(readings: &'a [Self], metric: &ScaleResource) -> Option<&'a Self> {
        let name = metric.wire_name();
        readings.iter().find(|reading| *reading.metric == *name)
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

impl Completeness {
    /// Whether all of a window is known.
    pub(crate) fn covers(&self, window: Duration) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "no target is scraped 2^53 times")]
        match self {
            Self::Guaranteed => true,
            Self::Only(time) => *time >= window,
            Self::Scrapes { seen: SampleCount::Count(seen), needed, most } => {
                *seen >= *needed as f64 && *seen <= *most as f64
            }
            Self::Scrapes { .. } => false,
        }
    }
}

impl fmt::Display for Completeness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guaranteed => f.write_str("guaranteed by the metric source"),
            Self::Only(time) => write!(f, "there is data for only the last {}", short(*time)),
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
                #[expect(clippy::cast_precision_loss, reason = "no target is scraped 2^53 times")]
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
