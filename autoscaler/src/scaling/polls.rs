//! Reads what is not told: the requests that the DLXs count, and the metrics of another source.

use std::{collections::HashMap, sync::Arc, time::Duration};

use scaler_types::{Resource, ResourceId, backoff::Backoff};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::resource::source_metrics;
use crate::{
    observe::{
        ActivitySource, MetricReading, RequestedScalingMetric,
        kubernetes::ClusterClient,
        load::{LoadReports, query_load},
        members::Members,
        shortest_window,
    },
    plugin::ActivePlugin,
};

/// Between two questions for the load, each up to a fifth less.
const LOAD_INTERVAL: Backoff = Backoff::new(Duration::from_secs(3), Duration::from_secs(3));
/// Between two readings of a source's metrics, each up to a fifth less.
const METRIC_INTERVAL: Backoff = Backoff::new(Duration::from_secs(15), Duration::from_secs(15));
/// How long a pause takes at least.
pub(super) const MIN_PAUSE: Duration = Duration::from_millis(100);

/// The metrics of another source, of each resource that has any.
pub(super) struct MetricReadings {
    /// When they were asked for.
    pub(super) at: Instant,
    /// Each with what was asked for.
    pub(super) readings: HashMap<ResourceId, Vec<(RequestedScalingMetric, MetricReading)>>,
}

/// Whose metrics are read.
pub(super) struct MetricPoll {
    pub(super) active: watch::Receiver<ActivePlugin>,
    pub(super) cluster: ClusterClient,
    pub(super) kind: String,
    pub(super) namespace: String,
}

/// Asks the DLXs about the wanted resources every few seconds, as long as there are any.
pub(super) async fn poll_loads(
    members: Members,
    kind: String,
    mut wanted: watch::Receiver<Arc<[ResourceId]>>,
    reports: mpsc::Sender<LoadReports>,
) {
    loop {
        let Ok(resources) = wanted.wait_for(|wanted| !wanted.is_empty()).await.map(|wanted| wanted.to_vec())
        else {
            return;
        };
        let next = Instant::now() + LOAD_INTERVAL.pause_after(1);
        if reports.send(query_load(&members, &kind, resources).await).await.is_err() {
            return;
        }
        pause_until(next).await;
    }
}

/// Reads the metrics of the wanted resources, as long as there are any.
pub(super) async fn poll_metrics(
    poll: MetricPoll,
    mut wanted: watch::Receiver<Arc<[Resource]>>,
    readings: mpsc::Sender<MetricReadings>,
) {
    let mut known: Option<ActivitySource> = None;
    loop {
        let Ok(resources) = wanted.wait_for(|wanted| !wanted.is_empty()).await.map(|wanted| wanted.clone())
        else {
            return;
        };
        let at = Instant::now();
        let settings = poll.active.borrow().settings.clone();
        let source = match known.take().filter(|source| source.matches(&settings.metrics)) {
            Some(source) => source,
            None => ActivitySource::new(&settings.metrics, &poll.cluster),
        };
        let shortest = shortest_window(&settings.metrics);
        let metrics: Vec<_> = resources.iter().map(|resource| source_metrics(resource, shortest)).collect();
        let read = source.read_scaling_metrics(&poll.kind, &poll.namespace, &resources, &metrics).await;
        known = Some(source);
        let with_asked =
            metrics.into_iter().zip(read).map(|(asked, read)| asked.into_iter().zip(read).collect());
        let ids = resources.iter().map(|resource| resource.id.clone());
        if readings.send(MetricReadings { at, readings: ids.zip(with_asked).collect() }).await.is_err() {
            return;
        }
        pause_until(at + METRIC_INTERVAL.pause_after(1)).await;
    }
}

#[expect(clippy::disallowed_methods, reason = "the load is read at intervals: nothing tells that it changed")]
async fn pause_until(at: Instant) {
    sleep_until(at.max(Instant::now() + MIN_PAUSE)).await;
}
