//! The interceptor of one plugin in one namespace file.

mod calls;

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use daemon::{
    events,
    reports::{Dropped, Reporter},
    wakes::Wakes,
};
use plugin_host::Listed;
use scaler_types::{Backend, Changes, Resource, ResourceId, duration::short, protocol::Dlxs};
use tokio::{
    sync::{mpsc, watch},
    task::{Id, JoinSet},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use calls::{CallKind, CallResult, SET_BACKEND, WAKES};

use super::{
    InterceptionTable, ServingDlxs,
    resource::{BackendChange, DueActions, InterceptedResource},
    sync_dlxs::keep_dlxs_synced,
};
use crate::{
    observe::{ListedChanges, follow_changes},
    plugin::{ActivePlugin, start_reporter},
    telemetry::{AutoscalerMetrics, BackendLabels, CycleLabels},
};

/// The state that all interceptors share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct InterceptorContext {
    /// The daemon's metrics.
    pub(crate) metrics: AutoscalerMetrics,
    /// Counts reports that no plugin showed.
    pub(crate) dropped: Dropped,
    /// The ready DLXs, and the delays of interception.
    pub(crate) dlxs: ServingDlxs,
    /// The budget for wakes.
    pub(crate) wakes: Wakes,
    /// Cancelled when the interceptor is to end.
    pub(crate) stop: CancellationToken,
}

/// Moves the Services of one plugin in one namespace file between workloads and DLXs.
pub(crate) struct Interceptor {
    active: watch::Receiver<ActivePlugin>,
    context: InterceptorContext,
    labels: CycleLabels,
    table: InterceptionTable,
    reporter: Reporter,
    /// When to check which resource again.
    timers: BTreeSet<(Instant, ResourceId)>,
    /// The resources whose backend waits to be written, and those that wait to be woken.
    queues: [VecDeque<ResourceId>; 2],
    running: JoinSet<CallResult>,
    calls: HashMap<Id, (Option<ResourceId>, CallKind)>,
    /// How many backends are being written.
    writes_in_progress: usize,
    /// How many places for wakes are waited for.
    queued_wakes: usize,
    /// The availability of the DLXs when all resources were last checked.
    dlxs: Dlxs,
}

// === impl Interceptor ===

impl Interceptor {
    /// The interceptor of the plugin that is `active`, for the namespace file of `namespace`; what it knows is to be read in `table`.
    /// To be called on a tokio runtime.
    pub(crate) fn new(
        active: watch::Receiver<ActivePlugin>,
        namespace: &str,
        context: InterceptorContext,
        table: InterceptionTable,
    ) -> Self {
        let kind = active.borrow().plugin.kind().to_owned();
        Self {
            reporter: start_reporter(&active, &context.dropped),
            active,
            context,
            labels: CycleLabels { kind, namespace: namespace.to_owned() },
            table,
            timers: BTreeSet::new(),
            queues: Default::default(),
            running: JoinSet::new(),
            calls: HashMap::new(),
            writes_in_progress: 0,
            queued_wakes: 0,
            dlxs: Dlxs::Away,
        }
    }

    /// Runs until the context stops or the plugin is gone; then it ends at once, whatever is in progress: the leader that comes
    /// next goes on from what is there.
    pub(crate) async fn run(mut self) {
        let (sender, listed) = mpsc::channel(1);
        let InterceptorContext { stop, dlxs, metrics, .. } = self.context.clone();
        let ended = {
            let mut active = self.active.clone();
            async move { while active.changed().await.is_ok() {} }
        };
        let follow = follow_changes(self.active.clone(), sender);
        let sync = keep_dlxs_synced(self.active.clone(), dlxs, self.labels.clone(), metrics);
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = ended => {}
            () = self.run_until_closed(listed) => {}
            () = follow => {}
            () = sync => {}
        }
    }

    async fn run_until_closed(&mut self, mut listed: mpsc::Receiver<ListedChanges>) {
        let mut serving = self.context.dlxs.serving.clone();
        serving.mark_changed();
        let table = self.table.clone();
        loop {
            let timer = self.timers.first().map(|(at, _)| *at);
            let dead = {
                let inner = table.inner();
                inner
                    .dlxs
                    .unavailable_at(self.context.dlxs.unavailable_timeout)
                    .filter(|_| self.dlxs == Dlxs::Away)
            };
            tokio::select! {
                Some(changes) = listed.recv() => self.handle_listed(changes),
                changed = next_serving(&mut serving) => {
                    let known = changed;
                    table.inner().dlxs.observe(Instant::now(), &known);
                    self.dlxs_changed();
                }
                () = table.changed() => {}
                Some(ended) = self.running.join_next_with_id() => self.handle_finished(ended),
                () = sleep_to(timer) => self.fire_timers(),
                () = sleep_to(dead) => self.dlxs_changed(),
            }
            let dirty = std::mem::take(&mut table.inner().dirty);
            for id in dirty {
                self.check(&id);
            }
            self.start_calls();
        }
    }

    fn serving(&self) -> &ServingDlxs {
        &self.context.dlxs
    }

    /// Checks every resource if the availability of the DLXs has changed.
    fn dlxs_changed(&mut self) {
        let mut inner = self.table.inner();
        let now = inner.step_context(Instant::now(), self.serving()).dlxs;
        if now == self.dlxs {
            return;
        }
        match now {
            Dlxs::Dead => tracing::warn!(
                kind = self.labels.kind,
                namespace = self.labels.namespace,
                dlx_unavailable_timeout = %short(self.serving().unavailable_timeout),
                interceptions = inner.resources.len(),
                "no DLX ready for the timeout; restoring all intercepted Services and waking their workloads"
            ),
            Dlxs::Serving if self.dlxs == Dlxs::Dead => tracing::info!(
                kind = self.labels.kind,
                namespace = self.labels.namespace,
                "a DLX is ready again"
            ),
            _ => {}
        }
        self.dlxs = now;
        let all: Vec<_> = inner.resources.keys().cloned().collect();
        inner.dirty.extend(all);
    }

    fn handle_listed(&mut self, changes: ListedChanges) {
        match changes {
            Ok(changes) => self.apply_changes(changes),
            Err(_) => {
                let mut inner = self.table.inner();
                inner.reachable = Some(false);
                let waited_for = inner.awaited_resources();
                inner.dirty.extend(waited_for);
            }
        }
    }

    fn apply_changes(&mut self, mut answer: Listed<Changes>) {
        let changes = std::mem::take(&mut answer.readable);
        let now = Instant::now();
        let table = self.table.clone();
        let mut inner = table.inner();
        if inner.reachable.replace(true) != Some(true) {
            let waited_for = inner.awaited_resources();
            inner.dirty.extend(waited_for);
        }
        let named = answer.unreadable.iter().filter_map(|unreadable| unreadable.id.clone());
        let (mut unreadable, mut gone): (Vec<_>, _) = (named.collect(), changes.removed);
        if changes.complete {
            let listed: HashSet<_> = changes.resources.iter().map(|resource| &resource.id).collect();
            let why_unreadable = answer.why_unreadable();
            for id in inner.resources.keys().filter(|id| !listed.contains(id)).cloned() {
                if why_unreadable(&id).is_some() { unreadable.push(id) } else { gone.push(id) }
            }
        }
        for resource in &changes.resources {
            let Some(interception) = &resource.interception else {
                if inner.resources.contains_key(&resource.id) {
                    gone.push(resource.id.clone());
                }
                continue;
            };
            let before =
                inner.resources.get(&resource.id).map(|intercepted| intercepted.interception.backend);
            match inner.resources.get_mut(&resource.id) {
                Some(intercepted) => {
                    if let Some(moved) = intercepted.update(now, resource, interception) {
                        self.report_change(&resource.id, moved, resource);
                    }
                }
                None => drop(
                    inner
                        .resources
                        .insert(resource.id.clone(), InterceptedResource::new(now, resource, interception)),
                ),
            }
            self.count_backend(before, Some(interception.backend));
            inner.dirty.insert(resource.id.clone());
        }
        for id in unreadable {
            if let Some(resource) = inner.resources.get_mut(&id) {
                resource.unreadable = true;
                inner.dirty.insert(id);
            }
        }
        for id in gone {
            // Most never had an interception.
            let Some(intercepted) = inner.resources.remove(&id) else { continue };
            self.count_backend(Some(intercepted.interception.backend), None);
            if intercepted.interception.backend != Backend::Workload {
                self.report_removed(&id);
            }
            inner.dirty.insert(id);
        }
    }

    fn count_backend(&self, before: Option<Backend>, now: Option<Backend>) {
        let table = &self.context.metrics.interceptions;
        if before == now {
            return;
        }
        if let Some(backend) = before {
            table.get_or_create(&BackendLabels::new(&self.labels, backend)).dec();
        }
        if let Some(backend) = now {
            table.get_or_create(&BackendLabels::new(&self.labels, backend)).inc();
        }
    }

    fn report_change(&self, id: &ResourceId, moved: BackendChange, resource: &Resource) {
        match moved {
            BackendChange::ToDlxs => {
                let dlxs = resource
                    .interception
                    .as_ref()
                    .map(|interception| interception.dlxs.join(", "))
                    .unwrap_or_default();
                tracing::info!(resource = %id, dlxs, "intercepted Service");
                let message = format!("Its requests go to the DLXs now: {dlxs}");
                self.reporter.report(id, events::SERVICE_INTERCEPTED, message);
            }
            BackendChange::ToWorkload => self.report_removed(id),
        }
    }

    fn report_removed(&self, id: &ResourceId) {
        tracing::info!(resource = %id, "removed interception");
        self.reporter.report(id, events::INTERCEPTION_REMOVED, "Its requests go to its own pods again");
    }

    /// Checks one resource: queues what is due now, and sets a timer for what is due later.
    fn check(&mut self, id: &ResourceId) {
        let table = self.table.clone();
        let mut inner = table.inner();
        let at = inner.step_context(Instant::now(), self.serving());
        if let Some(again) = inner.publish_progress(id, at) {
            self.timers.insert((again, id.clone()));
        }
        let (Some(intercepted), waiting) = inner.resource_and_attempt(id) else { return };
        let DueActions { call, wake, again } = intercepted.due_actions(at, waiting);
        for (kind, due) in [(SET_BACKEND, call.is_some()), (WAKES, wake)] {
            if due && !std::mem::replace(&mut intercepted.queued[kind], true) {
                self.queues[kind].push_back(id.clone());
            }
        }
        if let Some(again) = again {
            self.timers.insert((again, id.clone()));
        }
    }

    /// Marks the resources whose timers have expired.
    fn fire_timers(&mut self) {
        let now = Instant::now();
        while self.timers.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, id)) = self.timers.pop_first() {
                self.table.inner().dirty.insert(id);
            }
        }
    }
}

impl Drop for Interceptor {
    fn drop(&mut self) {
        let mut inner = self.table.inner();
        for backend in inner.resources.drain().map(|(_, intercepted)| intercepted.interception.backend) {
            self.context
                .metrics
                .interceptions
                .get_or_create(&BackendLabels::new(&self.labels, backend))
                .dec();
        }
        inner.reachable = None;
    }
}

/// The DLXs, when they are others.
async fn next_serving(
    serving: &mut watch::Receiver<daemon::members::serving::ReadyDlxs>,
) -> Option<Arc<[scaler_types::Dlx]>> {
    if serving.changed().await.is_err() {
        std::future::pending().await
    }
    serving.borrow_and_update().clone()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the propagation delay, a pause and the wait for DLXs end by time alone"
)]
async fn sleep_to(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
