//! The router of one plugin in one namespace file.

mod calls;

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use daemon::{
    reports::{Dropped, Reporter},
    wakes::Wakes,
};
use scaler_types::{Changes, Leads, Resource, ResourceId, Severity, duration::short, protocol::Dlxs};
use tokio::{
    sync::{mpsc, watch},
    task::{Id, JoinSet},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use calls::{Done, LEADS, WAKES, What};

use super::{
    Leading, Routes,
    resource::{Due, Led, Moved},
    sync::tend,
};
use crate::{
    observe::{Told, follow},
    plugin::{Given, Plugin, reporter},
    telemetry::{CycleLabels, LeadsLabels, Metrics},
};

/// What all routers share. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// The daemon's metrics.
    pub metrics: Metrics,
    /// Counts reports that no plugin showed.
    pub dropped: Dropped,
    /// What routes are led by.
    pub leading: Leading,
    /// The budget for wakes.
    pub wakes: Wakes,
    /// Cancelled when the router is to end.
    pub stop: CancellationToken,
}

/// The router of one plugin in one namespace file.
pub struct Router<P> {
    given: watch::Receiver<Given<P>>,
    context: Context,
    labels: CycleLabels,
    routes: Routes,
    reporter: Reporter,
    /// When to look again at whom.
    timers: BTreeSet<(Instant, ResourceId)>,
    /// Those that wait for a place to be written, and those that wait to be woken.
    queues: [VecDeque<ResourceId>; 2],
    running: JoinSet<Done>,
    whose: HashMap<Id, (Option<ResourceId>, What)>,
    /// How many routes are being written.
    leading_now: usize,
    /// How many places for wakes are waited for.
    asking: usize,
    /// How the DLXs were when all routes were last looked at.
    dlxs: Dlxs,
}

// === impl Router ===

impl<P: Plugin> Router<P> {
    /// The router of the plugin that is `given`, for the namespace file of `namespace`; what it knows is to be read in `routes`.
    /// To be called on a tokio runtime.
    pub fn new(given: watch::Receiver<Given<P>>, namespace: &str, context: Context, routes: Routes) -> Self {
        let kind = given.borrow().plugin.kind().to_owned();
        Self {
            reporter: reporter(&given, &context.dropped),
            given,
            context,
            labels: CycleLabels { kind, namespace: namespace.to_owned() },
            routes,
            timers: BTreeSet::new(),
            queues: Default::default(),
            running: JoinSet::new(),
            whose: HashMap::new(),
            leading_now: 0,
            asking: 0,
            dlxs: Dlxs::Away,
        }
    }

    /// Runs until the context stops or nothing is given any more; then it ends at once, whatever is under way: whoever leads
    /// next goes on from what is there.
    pub async fn run(mut self) {
        let (tell, told) = mpsc::channel(1);
        let Context { stop, leading, metrics, .. } = self.context.clone();
        let ended = {
            let mut given = self.given.clone();
            async move { while given.changed().await.is_ok() {} }
        };
        let follow = follow(self.given.clone(), self.labels.clone(), tell);
        let tend = tend(self.given.clone(), leading, self.labels.clone(), metrics);
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = ended => {}
            () = self.lead(told) => {}
            () = follow => {}
            () = tend => {}
        }
    }

    async fn lead(&mut self, mut told: mpsc::Receiver<Told>) {
        let mut serving = self.context.leading.serving.clone();
        serving.mark_changed();
        let routes = self.routes.clone();
        loop {
            let timer = self.timers.first().map(|(at, _)| *at);
            let dead = {
                let inner = routes.inner();
                inner.dlxs.dead_at(self.context.leading.dead_man).filter(|_| self.dlxs == Dlxs::Away)
            };
            tokio::select! {
                Some(told) = told.recv() => self.told(told),
                changed = changed(&mut serving) => {
                    let known = changed;
                    routes.inner().dlxs.saw(Instant::now(), &known);
                    self.dlxs_changed();
                }
                () = routes.poked() => {}
                Some(ended) = self.running.join_next_with_id() => self.ended(ended),
                () = at(timer) => self.fire(),
                () = at(dead) => self.dlxs_changed(),
            }
            let dirty = std::mem::take(&mut routes.inner().dirty);
            for id in dirty {
                self.look(&id);
            }
            self.start();
        }
    }

    fn leading(&self) -> &Leading {
        &self.context.leading
    }

    /// The DLXs are as they were, but for their number, or not: then every route may be due.
    fn dlxs_changed(&mut self) {
        let mut inner = self.routes.inner();
        let now = inner.now(Instant::now(), self.leading()).dlxs;
        if now == self.dlxs {
            return;
        }
        match now {
            Dlxs::Dead => tracing::warn!(
                kind = self.labels.kind,
                namespace = self.labels.namespace,
                dlx_unavailable_timeout = %short(self.leading().dead_man),
                routes = inner.led.len(),
                "no DLX takes requests: every route is given back, and what sleeps is woken"
            ),
            Dlxs::Serving if self.dlxs == Dlxs::Dead => tracing::info!(
                kind = self.labels.kind,
                namespace = self.labels.namespace,
                "DLXs take requests again"
            ),
            _ => {}
        }
        self.dlxs = now;
        let all: Vec<_> = inner.led.keys().cloned().collect();
        inner.dirty.extend(all);
    }

    fn told(&mut self, told: Told) {
        match told {
            Told::Changes(changes) => self.changes(changes),
            Told::Nothing => {
                let mut inner = self.routes.inner();
                inner.told = Some(false);
                let waited_for = inner.waited_for();
                inner.dirty.extend(waited_for);
            }
        }
    }

    fn changes(&mut self, changes: Changes) {
        let now = Instant::now();
        let routes = self.routes.clone();
        let mut inner = routes.inner();
        if inner.told.replace(true) != Some(true) {
            let waited_for = inner.waited_for();
            inner.dirty.extend(waited_for);
        }
        let mut gone = changes.removed;
        if changes.complete {
            let listed: HashSet<_> = changes.resources.iter().map(|resource| &resource.id).collect();
            gone.extend(inner.led.keys().filter(|id| !listed.contains(id)).cloned());
        }
        for resource in &changes.resources {
            let Some(route) = &resource.route else {
                if inner.led.contains_key(&resource.id) {
                    gone.push(resource.id.clone());
                }
                continue;
            };
            let before = inner.led.get(&resource.id).map(|led| led.route.leads);
            match inner.led.get_mut(&resource.id) {
                Some(led) => {
                    if let Some(moved) = led.saw(now, resource, route) {
                        self.moved(&resource.id, moved, resource);
                    }
                }
                None => drop(inner.led.insert(resource.id.clone(), Led::new(now, resource, route))),
            }
            self.count(before, Some(route.leads));
            inner.dirty.insert(resource.id.clone());
        }
        for id in gone {
            // Most never had one.
            let Some(led) = inner.led.remove(&id) else { continue };
            self.count(Some(led.route.leads), None);
            if led.route.leads != Leads::Own {
                self.back(&id);
            }
            inner.dirty.insert(id);
        }
    }

    fn count(&self, before: Option<Leads>, now: Option<Leads>) {
        let routes = &self.context.metrics.routes;
        if before == now {
            return;
        }
        if let Some(leads) = before {
            routes.get_or_create(&LeadsLabels::new(&self.labels, leads)).dec();
        }
        if let Some(leads) = now {
            routes.get_or_create(&LeadsLabels::new(&self.labels, leads)).inc();
        }
    }

    fn moved(&self, id: &ResourceId, moved: Moved, resource: &Resource) {
        match moved {
            Moved::ToDlxs => {
                let dlxs = resource.route.as_ref().map(|route| route.dlxs.join(", ")).unwrap_or_default();
                tracing::info!(resource = %id, dlxs, "its requests are led to the DLXs");
                let message = format!("Its requests are led to the DLXs: {dlxs}");
                self.reporter.report(id, Severity::Normal, "RouteLed", message);
            }
            Moved::Back => self.back(id),
        }
    }

    fn back(&self, id: &ResourceId) {
        tracing::info!(resource = %id, "its requests go to itself again");
        self.reporter.report(id, Severity::Normal, "RouteGivenBack", "Its requests go to itself again");
    }

    /// Looks at one: has it done what is due, or looks again when that may be.
    fn look(&mut self, id: &ResourceId) {
        let routes = self.routes.clone();
        let mut inner = routes.inner();
        let at = inner.now(Instant::now(), self.leading());
        if let Some(again) = inner.tell(id, at) {
            self.timers.insert((again, id.clone()));
        }
        let (Some(led), waiting) = inner.of(id) else { return };
        let Due { call, wake, again } = led.due(at, waiting);
        for (kind, due) in [(LEADS, call.is_some()), (WAKES, wake)] {
            if due && !std::mem::replace(&mut led.queued[kind], true) {
                self.queues[kind].push_back(id.clone());
            }
        }
        if let Some(again) = again {
            self.timers.insert((again, id.clone()));
        }
    }

    /// Looks at those whose time has come.
    fn fire(&mut self) {
        let now = Instant::now();
        while self.timers.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, id)) = self.timers.pop_first() {
                self.routes.inner().dirty.insert(id);
            }
        }
    }
}

impl<P> Drop for Router<P> {
    fn drop(&mut self) {
        let mut inner = self.routes.inner();
        for leads in inner.led.drain().map(|(_, led)| led.route.leads) {
            self.context.metrics.routes.get_or_create(&LeadsLabels::new(&self.labels, leads)).dec();
        }
        inner.told = None;
    }
}

/// The DLXs, when they are others.
async fn changed(
    serving: &mut watch::Receiver<daemon::members::serving::Known>,
) -> Option<Arc<[scaler_types::Dlx]>> {
    if serving.changed().await.is_err() {
        std::future::pending().await
    }
    serving.borrow_and_update().clone()
}

#[expect(clippy::disallowed_methods, reason = "a grace, a pause and the wait for DLXs end by time alone")]
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
