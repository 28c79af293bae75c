//! Chooses how many replicas the resources with a target have while they are awake, and wakes those that a metric, or a user, wants
//! awake: one scaler beside each cycle, at once when a reading changes.
//!
//! [`resource`] knows one resource and what is due, `polls` reads the requests and the metrics of other sources, and [`table`] is
//! what the cycle and the admin port see.

mod calls;
mod polls;
mod resource;
mod table;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use daemon::{
    events,
    plugin_manager::MetricSources,
    reports::{Dropped, Reporter},
    wakes::Wakes,
};
use plugin_host::{Listed, RunningPlugin};
use scaler_types::{Changes, Resource, ResourceId};
use tokio::{
    sync::{mpsc, watch},
    task::{Id, JoinSet},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    observe::{
        ListedChanges, follow_changes,
        kubernetes::ClusterClient,
        load::LoadReports,
        members::Members,
        queues::{QueueReader, QueueReadings},
        shortest_window,
    },
    plugin::{ActivePlugin, start_reporter},
    telemetry::{AutoscalerMetrics, CycleLabels},
};
use calls::{CallResult, RunningCall};
use polls::MetricReadings;
use resource::{ScaledResource, has_request_target, source_metrics};
pub(crate) use table::{ScalingStatus, ScalingTable};

/// How many workloads get an Event when their queues cannot be read.
const MAX_REPORTED_FAILURES: usize = 20;

/// The state that all scalers share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ScalerContext {
    /// The DLXs.
    pub(crate) members: Members,
    /// The daemon's metrics.
    pub(crate) metrics: AutoscalerMetrics,
    /// The cluster, for the metric source kubernetes.
    pub(crate) cluster: ClusterClient,
    /// Counts reports that no plugin showed.
    pub(crate) dropped: Dropped,
    /// The budget for wakes.
    pub(crate) wakes: Wakes,
    /// Cancelled when the scaler is to end.
    pub(crate) stop: CancellationToken,
}

/// Chooses the replicas of the resources of one plugin in one namespace file.
pub(crate) struct ReplicaScaler {
    active: watch::Receiver<ActivePlugin>,
    context: ScalerContext,
    sources: MetricSources,
    labels: CycleLabels,
    table: ScalingTable,
    /// The plugin that listed the resources last: another has another configuration.
    listed_by: Arc<dyn RunningPlugin>,
    reporter: Reporter,
    running: JoinSet<CallResult>,
    calls: HashMap<Id, RunningCall>,
    /// Changes of the number of replicas that are being written.
    resizing: usize,
    /// The resources to evaluate again.
    dirty: HashSet<ResourceId>,
    wanted: Wanted,
}

/// What is to be read.
struct Wanted {
    queues: watch::Sender<Arc<BTreeSet<String>>>,
    loads: watch::Sender<Arc<[ResourceId]>>,
    metrics: watch::Sender<Arc<[Resource]>>,
}

// === impl ReplicaScaler ===

impl ReplicaScaler {
    /// The scaler of the plugin that is `active`, for the namespace file of `namespace`, whose queues `sources` read; what it knows is to be
    /// read in `table`. To be called on a tokio runtime.
    pub(crate) fn new(
        active: watch::Receiver<ActivePlugin>,
        namespace: &str,
        sources: MetricSources,
        context: ScalerContext,
        table: ScalingTable,
    ) -> Self {
        let listed_by = active.borrow().plugin.clone();
        let kind = listed_by.kind().to_owned();
        let (queues, loads, metrics) = (
            watch::Sender::default(),
            watch::Sender::new(Arc::default()),
            watch::Sender::new(Arc::default()),
        );
        Self {
            reporter: start_reporter(&active, &context.dropped),
            listed_by,
            active,
            context,
            sources,
            labels: CycleLabels { kind, namespace: namespace.to_owned() },
            table,
            running: JoinSet::new(),
            calls: HashMap::new(),
            resizing: 0,
            dirty: HashSet::new(),
            wanted: Wanted { queues, loads, metrics },
        }
    }

    /// Runs until the context stops or the plugin is gone; then it ends at once, whatever is in progress: the leader that comes
    /// next goes on from what is there.
    pub(crate) async fn run(mut self) {
        let (sender, listed) = mpsc::channel(1);
        let (send_queues, queues) = mpsc::channel(8);
        let (send_loads, loads) = mpsc::channel(1);
        let (send_metrics, metrics) = mpsc::channel(1);
        let ScalerContext { stop, members, cluster, .. } = self.context.clone();
        let CycleLabels { kind, namespace } = self.labels.clone();
        let ended = {
            let mut active = self.active.clone();
            async move { while active.changed().await.is_ok() {} }
        };
        let follow = follow_changes(self.active.clone(), sender);
        let read_queues =
            QueueReader::new(self.sources.clone(), self.wanted.queues.subscribe(), send_queues).run();
        let poll_loads =
            polls::poll_loads(members.clone(), kind.clone(), self.wanted.loads.subscribe(), send_loads);
        let poll_metrics = polls::poll_metrics(
            polls::MetricPoll { active: self.active.clone(), cluster, kind, namespace },
            self.wanted.metrics.subscribe(),
            send_metrics,
        );
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = ended => {}
            () = self.run_until_closed(listed, queues, loads, metrics) => {}
            () = follow => {}
            () = read_queues => {}
            () = poll_loads => {}
            () = poll_metrics => {}
        }
        let mut inner = self.table.inner();
        (inner.resources, inner.queues) = Default::default();
    }

    #[expect(clippy::disallowed_methods, reason = "a pause after a failed call ends by time alone")]
    async fn run_until_closed(
        &mut self,
        mut listed: mpsc::Receiver<ListedChanges>,
        mut queues: mpsc::Receiver<QueueReadings>,
        mut loads: mpsc::Receiver<LoadReports>,
        mut metrics: mpsc::Receiver<MetricReadings>,
    ) {
        loop {
            let again = self.table.inner().resources.values().filter_map(ScaledResource::again).min();
            let until_again = async move {
                match again {
                    // Not at once again and again, should one be due that nothing is done about.
                    Some(at) => sleep_until(at.max(Instant::now() + polls::MIN_PAUSE)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(changes) = listed.recv() => if let Ok(changes) = changes {
                    self.apply_changes(changes);
                },
                Some(readings) = queues.recv() => self.apply_queues(readings),
                Some(reports) = loads.recv() => self.apply_loads(&reports),
                Some(readings) = metrics.recv() => self.apply_metrics(readings),
                Some(ended) = self.running.join_next_with_id() => self.handle_finished(ended),
                () = until_again => self.mark_due(),
            }
            self.start_due();
        }
    }

    fn apply_changes(&mut self, mut answer: Listed<Changes>) {
        let changes = std::mem::take(&mut answer.readable);
        let table = self.table.clone();
        let mut inner = table.inner();
        if changes.complete {
            let listed: HashSet<_> = changes.resources.iter().map(|resource| &resource.id).collect();
            inner.resources.retain(|id, _| listed.contains(id));
            let plugin = self.active.borrow().plugin.clone();
            if *plugin != *self.listed_by {
                self.listed_by = plugin;
                inner.resources.values_mut().for_each(ScaledResource::forget_failures);
            }
        }
        // What cannot be read may be out of date: nothing is done about it.
        let unreadable = answer.unreadable.iter().filter_map(|unreadable| unreadable.id.clone());
        for id in changes.removed.into_iter().chain(unreadable) {
            inner.resources.remove(&id);
        }
        for resource in changes.resources {
            self.dirty.insert(resource.id.clone());
            let is_scaled = resource.scaling.is_some() || !resource.wake_now.is_empty();
            match inner.resources.get_mut(&resource.id) {
                _ if !is_scaled => drop(inner.resources.remove(&resource.id)),
                Some(scaled) => scaled.update(resource),
                None => drop(inner.resources.insert(resource.id.clone(), ScaledResource::new(resource))),
            }
        }
        let settings = self.active.borrow().settings.clone();
        self.wanted.publish(&mut inner, shortest_window(&settings.metrics));
    }

    fn apply_queues(&mut self, QueueReadings { at, readings }: QueueReadings) {
        let table = self.table.clone();
        let mut inner = table.inner();
        let wanted = self.wanted.queues.borrow().clone();
        // Whether each could be read, and what is new about that.
        let (mut read, mut failed) = (HashMap::new(), HashMap::new());
        for (queue, reading) in readings.into_iter().filter(|(queue, _)| wanted.contains(queue)) {
            read.insert(queue.clone(), reading.is_ok());
            let error = reading.as_ref().err().cloned();
            if inner.queues.entry(queue.clone()).or_default().observe(at, reading) {
                match error {
                    Some(error) => {
                        tracing::warn!(queue, reason = %error, "cannot read a queue; not scaling by it");
                        failed.insert(queue, error);
                    }
                    None => tracing::info!(queue, "queue can be read again"),
                }
            }
        }
        let mut reported = 0;
        for (id, scaled) in &mut inner.resources {
            let queues = scaled.resource.scaling.iter().flat_map(|scaling| &scaling.queues);
            let of_it: Vec<_> = queues.filter_map(|queue| read.get(queue)).collect();
            if of_it.contains(&&true) {
                scaled.note_reading();
            }
            if !of_it.is_empty() {
                self.dirty.insert(id.clone());
            }
            let queues = scaled.resource.scaling.iter().flat_map(|scaling| &scaling.queues);
            for (queue, error) in queues.filter_map(|queue| failed.get_key_value(queue)) {
                // One broker may be that of a thousand workloads.
                if reported < MAX_REPORTED_FAILURES {
                    let message = format!("Cannot read {queue}, so it is not scaled by it: {error}");
                    self.reporter.report(id, events::NOT_SCALED, message);
                    reported += 1;
                }
            }
        }
    }

    fn apply_loads(&mut self, reports: &LoadReports) {
        let table = self.table.clone();
        let mut inner = table.inner();
        for id in &reports.resources {
            if let Some(scaled) = inner.resources.get_mut(id) {
                reports.add_to(id, &mut scaled.load);
                scaled.note_reading();
                self.dirty.insert(id.clone());
            }
        }
    }

    fn apply_metrics(&mut self, MetricReadings { at, readings }: MetricReadings) {
        let table = self.table.clone();
        let mut inner = table.inner();
        for (id, readings) in readings {
            if let Some(scaled) = inner.resources.get_mut(&id) {
                scaled.readings = Some((at, readings));
                scaled.note_reading();
                self.dirty.insert(id);
            }
        }
    }

    /// Marks the resources whose pauses are over.
    fn mark_due(&mut self) {
        let now = Instant::now();
        for (id, scaled) in &self.table.inner().resources {
            if scaled.again().is_some_and(|again| again <= now) {
                self.dirty.insert(id.clone());
            }
        }
    }
}

// === impl Wanted ===

impl Wanted {
    /// Has what these resources are scaled by read from now on.
    fn publish(&self, inner: &mut table::Inner, shortest: Option<Duration>) {
        let queues = Arc::new(inner.take_queues());
        self.queues.send_if_modified(|now| {
            let differs = *now != queues;
            *now = queues;
            differs
        });
        let scaled = || inner.resources.values().filter(|scaled| scaled.resource.scaling.is_some());
        let mut loads: Vec<_> = scaled()
            .filter(|scaled| has_request_target(&scaled.resource))
            .map(|scaled| scaled.resource.id.clone())
            .collect();
        loads.sort();
        self.loads.send_if_modified(|now| {
            let differs = **now != *loads;
            if differs {
                *now = loads.into();
            }
            differs
        });
        let mut metrics: Vec<_> = scaled()
            .filter(|scaled| !source_metrics(&scaled.resource, shortest).is_empty())
            .map(|scaled| scaled.resource.clone())
            .collect();
        metrics.sort_by(|a, b| a.id.cmp(&b.id));
        self.metrics.send_replace(metrics.into());
    }
}
