//! Asks a namespace file's metric source for all resources at once.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use daemon::settings::{MetricsSource, Prometheus, Settings};
use scaler_types::{Resource, ScaleResource, TrafficMode};

use super::{
    Activity, Completeness, DlxReports, MetricReading, MetricValue, dlx,
    kubernetes::{ClusterClient, KubernetesSource},
    members::Members,
    prometheus::PrometheusSource,
};

/// In scrape intervals: wherever the scrapes fall in it, the first and the last are two whole intervals apart at least, also when one
/// fails.
const MIN_SCRAPE_INTERVALS: u32 = 4;

/// A source of the activity of resources. Cheap to clone.
#[derive(Clone)]
pub(crate) enum ActivitySource {
    /// The DLXs.
    Dlx,
    /// A Prometheus.
    Prometheus(PrometheusSource),
    /// The cluster's custom metrics API.
    Kubernetes(KubernetesSource),
}

/// A metric that some resource is decided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RequestedMetric<'a> {
    pub(super) name: &'a str,
    pub(super) window: Duration,
}

/// A metric with a target that some resource is scaled by.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RequestedScalingMetric {
    /// Its name.
    pub(crate) name: String,
    /// How far back it counts.
    pub(crate) window: Duration,
    /// How much of it one replica is for.
    pub(crate) target: f64,
    /// It counts the resource's requests, which wake it by themselves.
    pub(crate) is_requests: bool,
}

/// One metric's reading for each listed resource, by index.
pub(super) struct ReadingTable(Box<dyn Fn(usize) -> MetricReading + Send>);

/// By metric name and window.
pub(super) type ReadingTables = HashMap<String, HashMap<Duration, ReadingTable>>;

/// One resource's value in an answer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ValueSlot {
    value: f64,
    times: u8,
}

// === impl ActivitySource ===

impl ActivitySource {
    /// The source that `settings` name. Asks nothing yet.
    pub(crate) fn new(settings: &MetricsSource, cluster: &ClusterClient) -> Self {
        match settings {
            MetricsSource::Dlx => Self::Dlx,
            MetricsSource::Prometheus(settings) => Self::Prometheus(PrometheusSource::new(settings.clone())),
            MetricsSource::Kubernetes(kind) => {
                Self::Kubernetes(KubernetesSource::new(kind.clone(), cluster.clone()))
            }
        }
    }

    /// Whether it is the one that `settings` name.
    pub(crate) fn matches(&self, settings: &MetricsSource) -> bool {
        match (self, settings) {
            (Self::Dlx, MetricsSource::Dlx) => true,
            (Self::Prometheus(this), MetricsSource::Prometheus(settings)) => this.settings() == settings,
            (Self::Kubernetes(this), MetricsSource::Kubernetes(kind)) => this.kind() == kind,
            _ => false,
        }
    }

    /// The shortest window that it can measure and prove complete; `None`: its windows cannot be chosen.
    pub(crate) fn shortest_window(&self) -> Option<Duration> {
        match self {
            Self::Prometheus(this) => shortest_scraped_window(this.settings()),
            Self::Dlx | Self::Kubernetes(_) => None,
        }
    }

    /// Reads for each resource the metrics that are wanted of it, in their order.
    pub(crate) async fn read_scaling_metrics(
        &self,
        kind: &str,
        namespace: &str,
        resources: &[Resource],
        wanted: &[Vec<RequestedScalingMetric>],
    ) -> Vec<Vec<MetricReading>> {
        let all = wanted.iter().flatten();
        let requested =
            all.map(|metric| RequestedMetric { name: &metric.name, window: metric.window }).collect();
        let tables = match self {
            Self::Dlx => ReadingTables::new(),
            Self::Prometheus(source) => source.query_all(namespace, resources, &requested).await,
            Self::Kubernetes(source) => source.query(kind, resources, &requested).await,
        };
        let unread = match self {
            Self::Dlx => "the metric source dlx has none: set metrics.source to prometheus or kubernetes",
            Self::Prometheus(_) | Self::Kubernetes(_) => "it was not queried",
        };
        let read = |(place, wanted): (usize, &Vec<RequestedScalingMetric>)| {
            let one = |metric: &RequestedScalingMetric| {
                read_table(&tables, place, &metric.name, metric.window, unread)
            };
            wanted.iter().map(one).collect()
        };
        wanted.iter().enumerate().map(read).collect()
    }

    /// Asks it about all resources of the plugin of this `kind`, and the DLXs as well: what is in flight only they know.
    /// `namespace`: the file's.
    pub(crate) async fn query(
        &self,
        members: &Members,
        kind: &str,
        namespace: &str,
        listed: &[Resource],
        settings: &Settings,
    ) -> Activity {
        let wanted: BTreeSet<_> = listed
            .iter()
            .flat_map(|resource| effective_metrics(resource, settings))
            .map(|metric| RequestedMetric { name: &metric.metric_name, window: metric.window_size })
            .collect();
        let windows = wanted.iter().map(|wanted| wanted.window).collect();
        let none = BTreeSet::new();
        let dlxs = async |windows| {
            if listed.iter().any(|resource| resource.traffic_mode != TrafficMode::External) {
                dlx::query_activity(members, kind, listed, windows).await
            } else {
                let source = DlxReports::default();
                Activity { source, samples: vec![Vec::new(); listed.len()], readings: None }
            }
        };
        let (mut activity, tables) = match self {
            Self::Dlx => return dlx::query_activity(members, kind, listed, &windows).await,
            Self::Prometheus(source) => {
                tokio::join!(dlxs(&none), source.query_all(namespace, listed, &wanted))
            }
            Self::Kubernetes(source) => {
                tokio::join!(dlxs(&none), source.query(kind, listed, &wanted))
            }
        };
        activity.readings = Some(collect_readings(listed, settings, &tables));
        activity
    }
}

/// The metrics that decide: the resource's own, else its namespace's.
pub(crate) fn effective_metrics<'a>(resource: &'a Resource, settings: &'a Settings) -> &'a [ScaleResource] {
    if resource.scale_resources.is_empty() { &settings.scale_resources } else { &resource.scale_resources }
}

/// The shortest window that a source of these settings can measure and prove complete; `None`: its windows cannot be chosen.
pub(crate) fn shortest_window(settings: &MetricsSource) -> Option<Duration> {
    match settings {
        MetricsSource::Prometheus(settings) => shortest_scraped_window(settings),
        MetricsSource::Dlx | MetricsSource::Kubernetes(_) => None,
    }
}

fn shortest_scraped_window(settings: &Prometheus) -> Option<Duration> {
    settings.scrape_interval.checked_mul(MIN_SCRAPE_INTERVALS)
}

/// A metric's name on the wire.
pub(super) fn wire_name(name: &str, window: Duration) -> Arc<str> {
    ScaleResource { metric_name: name.to_owned(), window_size: window, threshold: 0.0 }.wire_name().into()
}

/// One resource's reading of a metric; `unread`: why there is none.
fn read_table(
    tables: &ReadingTables,
    place: usize,
    name: &str,
    window: Duration,
    unread: &str,
) -> MetricReading {
    let table = tables.get(name).and_then(|windows| windows.get(&window));
    table.map_or_else(
        || MetricReading {
            metric: wire_name(name, window),
            value: MetricValue::Failed(unread.into()),
            coverage: Completeness::Guaranteed,
        },
        |table| table.reading(place),
    )
}

fn collect_readings(
    listed: &[Resource],
    settings: &Settings,
    tables: &ReadingTables,
) -> Vec<Vec<MetricReading>> {
    let reading = |place: usize, metric: &ScaleResource| {
        read_table(tables, place, &metric.metric_name, metric.window_size, "it was not queried")
    };
    let of = |(place, resource)| {
        effective_metrics(resource, settings).iter().map(|metric| reading(place, metric)).collect()
    };
    listed.iter().enumerate().map(of).collect()
}

// === impl ReadingTable ===

impl ReadingTable {
    /// `reading` gives the one for a place.
    pub(super) fn new(reading: impl Fn(usize) -> MetricReading + Send + 'static) -> Self {
        Self(Box::new(reading))
    }

    /// The reading of the resource at this index.
    pub(super) fn reading(&self, place: usize) -> MetricReading {
        (self.0)(place)
    }

    /// The source has no metric of this wire name; `known`: what it has.
    pub(super) fn unknown_metric(metric: Arc<str>, known: Arc<str>) -> Self {
        Self::new(move |_| MetricReading {
            metric: metric.clone(),
            value: MetricValue::Unknown(known.clone()),
            coverage: Completeness::Guaranteed,
        })
    }
}

// === impl ValueSlot ===

impl ValueSlot {
    pub(super) fn add(&mut self, value: f64) {
        self.value = value;
        self.times = self.times.saturating_add(1);
    }

    /// `idle`: what it means that there is none.
    pub(super) fn value(self, idle: bool) -> MetricValue {
        match self.times {
            0 => MetricValue::Absent { idle },
            1 => MetricValue::Number(self.value),
            _ => MetricValue::Several,
        }
    }
}
