//! The cycle of one plugin in one namespace file: every scale interval it looks at all resources, decides, and puts
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
    reports::{Dropped, Reporter},
    settings::Settings,
};
use scaler_types::{Path, ResourceId, ScaleError, Severity, State, protocol::Rules};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{Id, JoinSet},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    decide::{Decision, Reason},
    drain::End,
    interception::{Leading, Routes},
    observe::{MetricSource, kubernetes::Cluster, members::Members},
    plugin::{Given, Plugin, reporter},
    telemetry::{CycleLabels, DecisionLabels, Metrics},
};
use states::{Memory, Mend, Work};

/// How many tries of one cycle are under way at once. A try is a few writes, one question to each DLX and the time the
/// resource takes to stop: 64 put some hundred resources a second to zero, and are no load to speak of for a store.
const TRIES_AT_ONCE: usize = 64;

/// The same for tries on path direct, in places of their own: each waits for its route, the grace and a sample, two minutes or so, in
/// which it is no load to speak of.
const SWITCHES_AT_ONCE: usize = 128;

/// Of how many resources it is told in one cycle that they cannot go to zero: one cause, a silent DLX, say, may be that of
/// ten thousand, and an Event on each helps nobody.
const REFUSALS_TOLD: usize = 20;

/// What all cycles share. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// The DLXs.
    pub members: Members,
    /// The daemon's metrics.
    pub metrics: Metrics,
    /// The cluster, for the metric source kubernetes.
    pub cluster: Cluster,
    /// Counts reports that no plugin showed.
    pub dropped: Dropped,
    /// What routes are led by.
    pub leading: Leading,
    /// The protocol's rules.
    pub rules: Rules,
    /// Cancelled when no new try is to begin and those under way are to be finished or reverted.
    pub stop: CancellationToken,
}

/// A person wants a resource at zero, now.
pub struct Asked {
    /// Which one.
    pub id: ResourceId,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Answered>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Answered {
    /// A try was made.
    Tried(End),
    /// It is at zero already.
    AtZero,
    /// It may not be put to zero, and why.
    Kept(String),
    /// The plugin does not list it, or cannot tell.
    Unknown(String),
}

/// The cycle of one plugin in one namespace file.
pub struct Cycle<P> {
    given: watch::Receiver<Given<P>>,
    context: Context,
    labels: CycleLabels,
    memory: Arc<Mutex<Memory>>,
    routes: Routes,
    /// Made anew when the settings name another.
    source: Mutex<Option<MetricSource>>,
    asks: mpsc::Receiver<Asked>,
    /// Who waits for the end of a try.
    waiting: HashMap<ResourceId, Vec<oneshot::Sender<Answered>>>,
    reporter: Reporter,
    queue: VecDeque<Job>,
    /// Those of path direct that wait.
    switches: VecDeque<ResourceId>,
    running: JoinSet<Done>,
    whose: HashMap<Id, Place>,
    /// How many of those that run are switches.
    switching: usize,
}

/// What waits for a place among the tries.
enum Job {
    Mend(Mend),
    Sleep(ResourceId),
}

/// Whose task it is, and which kind of place it has.
struct Place {
    id: ResourceId,
    switches: bool,
}

/// What a task has done.
enum Done {
    Mended(Mend, Result<(), ScaleError>),
    /// With the reason why it was tried.
    Tried(End, String),
}

// === impl Cycle ===

impl<P: Plugin> Cycle<P> {
    /// The cycle of the plugin and settings that are `given`, for the namespace file of `namespace`; what it learns is
    /// to be read in `memory`, `routes` are those of its [`Router`](crate::interception::Router), and what people want of it comes by
    /// `asks`. To be called on a tokio runtime.
    pub fn new(
        given: watch::Receiver<Given<P>>,
        namespace: &str,
        context: Context,
        memory: Arc<Mutex<Memory>>,
        routes: Routes,
        asks: mpsc::Receiver<Asked>,
    ) -> Self {
        let reporter = reporter(&given, &context.dropped);
        let kind = given.borrow().plugin.kind().to_owned();
        Self {
            given,
            context,
            labels: CycleLabels { kind, namespace: namespace.to_owned() },
            memory,
            routes,
            source: Mutex::default(),
            asks,
            waiting: HashMap::new(),
            reporter,
            queue: VecDeque::new(),
            switches: VecDeque::new(),
            running: JoinSet::new(),
            whose: HashMap::new(),
            switching: 0,
        }
    }

    /// Runs until the context stops or nothing is given any more, and then until the tries under way have ended.
    #[expect(
        clippy::disallowed_methods,
        reason = "a resource becomes idle by nothing happening: the interval is the event"
    )]
    pub async fn run(mut self) {
        let stop = self.context.stop.clone();
        let mut due = Instant::now();
        // Not biased: neither many ends nor a look that takes longer than the interval keep the other from its turn.
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => break,
                changed = self.given.changed() => match changed {
                    Ok(()) => due = due.min(Instant::now() + self.interval()),
                    Err(_) => break,
                },
                Some(ended) = self.running.join_next_with_id() => self.ended(ended),
                Some(asked) = self.asks.recv() => {
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = self.asked(asked) => {}
                    }
                }
                // Time is the event here: a resource becomes idle by nothing happening.
                () = sleep_until(due) => {
                    due = Instant::now() + self.interval();
                    tokio::select! {
                        () = stop.cancelled() => break,
                        work = self.look() => self.enqueue(work),
                    }
                }
            }
            self.start();
        }
        self.queue.clear();
        self.switches.clear();
        while let Some(ended) = self.running.join_next_with_id().await {
            self.ended(ended);
        }
    }

    fn interval(&self) -> Duration {
        self.given.borrow().settings.scale_interval
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One look at all resources, and what is to be done.
    async fn look(&self) -> Work {
        let Given { plugin, settings } = self.given.borrow().clone();
        let began = Instant::now();
        let looked = self.look_with(&plugin, &settings).await;
        let took = began.elapsed();
        let metrics = &self.context.metrics;
        metrics.cycles.get_or_create(&self.labels).inc();
        metrics.cycle_seconds.get_or_create(&self.labels).observe(took.as_secs_f64());
        let mut memory = self.memory();
        (memory.cycles.last, memory.cycles.took) = (Some(began), took);
        match looked {
            Ok((work, None)) => {
                memory.cycles.error = None;
                drop(memory);
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                metrics.last_success.get_or_create(&self.labels).set(now.as_secs_f64());
                work
            }
            Ok((work, Some(error))) => {
                memory.cycles.error = Some(error);
                metrics.failed_cycles.get_or_create(&self.labels).inc();
                work
            }
            Err(error) => {
                tracing::warn!(kind = self.labels.kind, namespace = self.labels.namespace, %error, "the plugin cannot tell its resources: all are left as they are");
                memory.cycles.error = Some(format!("the plugin cannot tell its resources: {error}"));
                metrics.failed_cycles.get_or_create(&self.labels).inc();
                Work::default()
            }
        }
    }

    /// The work, and why nothing is known of the resources' activity, if so.
    async fn look_with(&self, plugin: &P, settings: &Settings) -> Result<(Work, Option<String>), String> {
        let listed = plugin.get_resources().await?;
        let namespace = &self.labels.namespace;
        let source = self.source(settings);
        let activity = source.ask(&self.context.members, plugin.kind(), namespace, &listed, settings).await;
        let unknown = activity.source.unknown.as_ref().map(ToString::to_string);
        let routes = self.context.leading.facts();
        let work = self.memory().observe(Instant::now(), listed, activity, routes, settings);
        for ((decision, reason), count) in &work.decisions {
            self.context.metrics.decisions.get_or_create(&DecisionLabels { decision, reason }).inc_by(*count);
        }
        Ok((work, unknown))
    }

    fn source(&self, settings: &Settings) -> MetricSource {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        match &*source {
            Some(source) if source.is(&settings.metrics) => source.clone(),
            _ => source.insert(MetricSource::new(&settings.metrics, &self.context.cluster)).clone(),
        }
    }

    /// A person wants a resource at zero: a look at all of them as ever, in which its windows do not count.
    async fn asked(&mut self, asked: Asked) {
        let Asked { id, answer } = asked;
        if self.memory().resources.get(&id).is_some_and(|known| known.under_way) {
            self.waiting.entry(id).or_default().push(answer);
            return;
        }
        self.memory().ask(Some(id.clone()));
        let work = self.look().await;
        let now = {
            let mut memory = self.memory();
            memory.ask(None);
            let error = memory.cycles.error.clone().map(|error| format!(": {error}")).unwrap_or_default();
            match memory.resources.get(&id).map(|known| &known.decision) {
                Some(Decision::ToZero(_)) => None,
                Some(Decision::Keep(Reason::AtZero | Reason::NotActive(State::Asleep))) => {
                    Some(Answered::AtZero)
                }
                Some(kept) => Some(Answered::Kept(kept.to_string())),
                None => Some(Answered::Unknown(format!("no plugin lists {id}{error}"))),
            }
        };
        match now {
            // Whoever asked may have left.
            Some(now) => drop(answer.send(now)),
            None => self.waiting.entry(id).or_default().push(answer),
        }
        self.enqueue(work);
    }

    /// Tells whoever waits for this resource.
    fn answer(&mut self, id: &ResourceId, answered: &Answered) {
        for waiting in self.waiting.remove(id).into_iter().flatten() {
            drop(waiting.send(answered.clone()));
        }
    }

    /// What an earlier look left waiting is decided anew with this one, but for what a person waits for.
    fn enqueue(&mut self, work: Work) {
        for (id, why) in work.refused.iter().take(REFUSALS_TOLD) {
            self.reporter.report(id, Severity::Warning, "NotScaledToZero", format!("Kept awake: {why}"));
        }
        for (id, frequent) in &work.frequent {
            tracing::warn!(resource = %id, wakes = frequent.wakes, "woken too often");
            let message = format!("It was {frequent}, or the annotation min-awake");
            self.reporter.report(id, Severity::Warning, "FrequentWakes", message);
        }
        let waiting = &self.waiting;
        self.queue.retain(|job| matches!(job, Job::Sleep(id) if waiting.contains_key(id)));
        self.queue.extend(work.mend.into_iter().map(Job::Mend));
        self.switches.retain(|id| waiting.contains_key(id));
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        for id in work.idle {
            match memory.resources.get(&id) {
                Some(known) if known.resource.path == Path::Direct => self.switches.push_back(id),
                _ => self.queue.push_back(Job::Sleep(id)),
            }
        }
    }
}

#[cfg(test)]
mod bench;
#[cfg(test)]
mod tests;
