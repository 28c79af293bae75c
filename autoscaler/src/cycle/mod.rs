//! The cycle of one plugin in one namespace file: every scale interval it reads all resources, decides, and scales
//! the idle ones to zero without holding up the next cycle.
//!
//! Each has a task of its own: a plugin or a namespace that fails or hangs never delays another one.

mod attempts;
pub(crate) mod states;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use daemon::{
    events,
    reports::{Dropped, Reporter},
    settings::Settings,
};
use plugin_host::{CallError, RunningPlugin};
use scaler_types::{Phase, ResourceId, ScaleError, TrafficMode, protocol::Rules};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{Id, JoinSet},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    decide::{Decision, Reason},
    drain::DrainOutcome,
    interception::{InterceptionTable, ServingDlxs},
    observe::{ActivitySource, kubernetes::ClusterClient, members::Members},
    plugin::{ActivePlugin, start_reporter},
    scaling::ScalingTable,
    telemetry::{AutoscalerMetrics, CycleLabels, DecisionLabels},
};
use states::{PlannedWork, Repair, ResourceStates};

/// Concurrent drain attempts of one cycle. An attempt is a few writes, one request to each DLX and the time the
/// resource takes to stop: 64 put some hundred resources a second to zero, and are no load to speak of for a store.
const MAX_CONCURRENT_ATTEMPTS: usize = 64;

/// The same for attempts that switch a Service, counted separately: each waits for the propagation delay and a sample, two minutes or so, in
/// which it is no load to speak of.
const MAX_CONCURRENT_SWITCHOVERS: usize = 128;

/// How many refusals are published per cycle: one cause, an unreachable DLX, say, may be that of
/// ten thousand, and an Event on each helps no user.
const MAX_REPORTED_REFUSALS: usize = 20;

/// The state that all cycles share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct CycleContext {
    /// The DLXs.
    pub(crate) members: Members,
    /// The daemon's metrics.
    pub(crate) metrics: AutoscalerMetrics,
    /// The cluster, for the metric source kubernetes.
    pub(crate) cluster: ClusterClient,
    /// Counts reports that no plugin showed.
    pub(crate) dropped: Dropped,
    /// The ready DLXs, and the delays of interception.
    pub(crate) dlxs: ServingDlxs,
    /// The protocol's rules.
    pub(crate) rules: Rules,
    /// Cancelled when no new attempt is to begin and those in progress are to be finished or reverted.
    pub(crate) stop: CancellationToken,
}

/// A user's request to scale a resource to zero now.
pub(crate) struct SleepRequest {
    /// Which one.
    pub(crate) id: ResourceId,
    /// Where the answer goes.
    pub(crate) answer: oneshot::Sender<SleepOutcome>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum SleepOutcome {
    /// A drain attempt ended.
    Attempted(DrainOutcome),
    /// It is already scaled to zero.
    AlreadyAsleep,
    /// It must stay awake, and why.
    KeptAwake(String),
    /// The plugin does not list it, or does not know its state.
    Unknown(String),
}

/// The cycle of one plugin in one namespace file.
pub(crate) struct Cycle {
    active: watch::Receiver<ActivePlugin>,
    context: CycleContext,
    labels: CycleLabels,
    states: Arc<Mutex<ResourceStates>>,
    interceptions: InterceptionTable,
    scaling: ScalingTable,
    /// Made anew when the settings name another.
    source: Mutex<Option<ActivitySource>>,
    sleep_requests: mpsc::Receiver<SleepRequest>,
    /// Where to answer when the attempt of a resource ends.
    waiting: HashMap<ResourceId, Vec<oneshot::Sender<SleepOutcome>>>,
    reporter: Reporter,
    queue: VecDeque<Job>,
    /// Waiting attempts in traffic mode `when-asleep`.
    switches: VecDeque<ResourceId>,
    running: JoinSet<TaskResult>,
    tasks: HashMap<Id, RunningTask>,
    /// How many of the running attempts switch a Service.
    switching: usize,
}

/// A job that waits for a place among the attempts.
enum Job {
    Repair(Repair),
    Drain(ResourceId),
}

/// The resource of a task, and whether it switches a Service.
struct RunningTask {
    id: ResourceId,
    switches: bool,
}

/// The result of a task.
enum TaskResult {
    Repaired(Repair, Result<(), ScaleError>),
    /// With the reason for the attempt.
    Drained(DrainOutcome, String),
}

// === impl Cycle ===

impl Cycle {
    /// The cycle of the plugin and settings that are `active`, for the namespace file of `namespace`; what it learns is
    /// to be read in `states`, `interceptions` are those of its [`Interceptor`](crate::interception::Interceptor), `scaling` is that of its
    /// [`ReplicaScaler`](crate::scaling::ReplicaScaler), and what people want of it comes by
    /// `sleep_requests`. To be called on a tokio runtime.
    pub(crate) fn new(
        active: watch::Receiver<ActivePlugin>,
        namespace: &str,
        context: CycleContext,
        states: Arc<Mutex<ResourceStates>>,
        interceptions: InterceptionTable,
        scaling: ScalingTable,
        sleep_requests: mpsc::Receiver<SleepRequest>,
    ) -> Self {
        let reporter = start_reporter(&active, &context.dropped);
        let kind = active.borrow().plugin.kind().to_owned();
        Self {
            active,
            context,
            labels: CycleLabels { kind, namespace: namespace.to_owned() },
            states,
            interceptions,
            scaling,
            source: Mutex::default(),
            sleep_requests,
            waiting: HashMap::new(),
            reporter,
            queue: VecDeque::new(),
            switches: VecDeque::new(),
            running: JoinSet::new(),
            tasks: HashMap::new(),
            switching: 0,
        }
    }

    /// Runs until the context stops or the plugin is gone, and then until its attempts have ended.
    #[expect(
        clippy::disallowed_methods,
        reason = "a resource becomes idle by nothing happening: the interval is the event"
    )]
    pub(crate) async fn run(mut self) {
        let stop = self.context.stop.clone();
        let mut due = Instant::now();
        // Not biased: neither many ends nor a look that takes longer than the interval keep the other from its turn.
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => break,
                changed = self.active.changed() => match changed {
                    Ok(()) => due = due.min(Instant::now() + self.interval()),
                    Err(_) => break,
                },
                Some(ended) = self.running.join_next_with_id() => self.handle_finished(ended),
                Some(request) = self.sleep_requests.recv() => {
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = self.handle_sleep_request(request) => {}
                    }
                }
                // Time is the event here: a resource becomes idle by nothing happening.
                () = sleep_until(due) => {
                    due = Instant::now() + self.interval();
                    tokio::select! {
                        () = stop.cancelled() => break,
                        work = self.run_once() => self.enqueue(work),
                    }
                }
            }
            self.start_queued();
        }
        self.queue.clear();
        self.switches.clear();
        while let Some(ended) = self.running.join_next_with_id().await {
            self.handle_finished(ended);
        }
    }

    fn interval(&self) -> Duration {
        self.active.borrow().settings.scale_interval
    }

    fn states(&self) -> MutexGuard<'_, ResourceStates> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One look at all resources, and what is to be done.
    async fn run_once(&self) -> PlannedWork {
        let ActivePlugin { plugin, settings } = self.active.borrow().clone();
        let began = Instant::now();
        let outcome = self.observe_and_decide(&*plugin, &settings).await;
        let took = began.elapsed();
        let metrics = &self.context.metrics;
        metrics.cycles.get_or_create(&self.labels).inc();
        metrics.cycle_seconds.get_or_create(&self.labels).observe(took.as_secs_f64());
        let mut states = self.states();
        (states.cycles.last, states.cycles.took) = (Some(began), took);
        match outcome {
            Ok((work, None)) => {
                states.cycles.error = None;
                drop(states);
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                metrics.last_success.get_or_create(&self.labels).set(now.as_secs_f64());
                work
            }
            Ok((work, Some(error))) => {
                states.cycles.error = Some(error);
                metrics.failed_cycles.get_or_create(&self.labels).inc();
                work
            }
            Err(error) => {
                tracing::warn!(kind = self.labels.kind, namespace = self.labels.namespace, %error, "failed to list resources; keeping all as they are");
                states.cycles.error = Some(format!("listing the resources of the plugin failed: {error}"));
                metrics.failed_cycles.get_or_create(&self.labels).inc();
                PlannedWork::default()
            }
        }
    }

    /// The work, and why nothing is known of the resources' activity, or of a resource, if so.
    async fn observe_and_decide(
        &self,
        plugin: &dyn RunningPlugin,
        settings: &Settings,
    ) -> Result<(PlannedWork, Option<String>), CallError> {
        let listed = plugin.get_resources().await?;
        let namespace = &self.labels.namespace;
        let source = self.source(settings);
        let readable = &listed.readable;
        let activity =
            source.query(&self.context.members, plugin.kind(), namespace, readable, settings).await;
        let nameless = listed.unreadable.iter().find(|unreadable| unreadable.id.is_none());
        let nameless = nameless.map(|unreadable| {
            let error = &unreadable.error;
            format!("the plugin lists a resource without a readable name, {error}; keeping all that are not listed")
        });
        let unknown = activity.source.unknown.as_ref().map(ToString::to_string).or(nameless);
        let interceptions = self.context.dlxs.conditions();
        let now = Instant::now();
        let known_work = self.scaling.work(now, settings);
        let work = {
            let mut states = self.states();
            states.set_work(known_work);
            states.observe(now, listed, activity, interceptions, settings)
        };
        for ((decision, reason), count) in &work.decisions {
            self.context.metrics.decisions.get_or_create(&DecisionLabels { decision, reason }).inc_by(*count);
        }
        Ok((work, unknown))
    }

    fn source(&self, settings: &Settings) -> ActivitySource {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        match &*source {
            Some(source) if source.matches(&settings.metrics) => source.clone(),
            _ => source.insert(ActivitySource::new(&settings.metrics, &self.context.cluster)).clone(),
        }
    }

    /// Runs a cycle in which the windows of the requested resource do not count.
    async fn handle_sleep_request(&mut self, request: SleepRequest) {
        let SleepRequest { id, answer } = request;
        if self.states().resources.get(&id).is_some_and(|state| state.in_progress) {
            self.waiting.entry(id).or_default().push(answer);
            return;
        }
        self.states().request_sleep(Some(id.clone()));
        let work = self.run_once().await;
        let now = {
            let mut states = self.states();
            states.request_sleep(None);
            let error = states.cycles.error.clone().map(|error| format!(": {error}")).unwrap_or_default();
            match states.resources.get(&id).map(|state| &state.decision) {
                Some(Decision::ScaleToZero(_)) => None,
                Some(Decision::Keep(Reason::NoReplicas | Reason::NotActive(Phase::Asleep))) => {
                    Some(SleepOutcome::AlreadyAsleep)
                }
                Some(kept) => Some(SleepOutcome::KeptAwake(kept.to_string())),
                None => Some(SleepOutcome::Unknown(format!("no plugin lists {id}{error}"))),
            }
        };
        match now {
            // The caller may have left.
            Some(now) => drop(answer.send(now)),
            None => self.waiting.entry(id).or_default().push(answer),
        }
        self.enqueue(work);
    }

    /// Answers the requests that wait for this resource.
    fn answer_waiting(&mut self, id: &ResourceId, answered: &SleepOutcome) {
        for waiting in self.waiting.remove(id).into_iter().flatten() {
            drop(waiting.send(answered.clone()));
        }
    }

    /// Replaces the queue of the cycle before, but for resources that a user waits for.
    fn enqueue(&mut self, work: PlannedWork) {
        for (id, why) in work.refused.iter().take(MAX_REPORTED_REFUSALS) {
            self.reporter.report(id, events::NOT_SCALED_TO_ZERO, format!("Kept awake: {why}"));
        }
        for (id, frequent) in &work.frequent {
            tracing::warn!(resource = %id, wakes = frequent.wakes, "woken too often");
            let message = format!("It was {frequent}, as would the annotation scaler.dev/min-awake");
            self.reporter.report(id, events::FREQUENT_WAKES, message);
        }
        let waiting = &self.waiting;
        self.queue.retain(|job| matches!(job, Job::Drain(id) if waiting.contains_key(id)));
        self.queue.extend(work.repairs.into_iter().map(Job::Repair));
        self.switches.retain(|id| waiting.contains_key(id));
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        for id in work.idle {
            match states.resources.get(&id) {
                Some(state) if state.resource.traffic_mode == TrafficMode::WhenAsleep => {
                    self.switches.push_back(id)
                }
                _ => self.queue.push_back(Job::Drain(id)),
            }
        }
    }
}

#[cfg(test)]
mod bench;
#[cfg(test)]
mod tests;
