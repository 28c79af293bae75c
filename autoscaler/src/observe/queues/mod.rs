//! Reads the queues that resources are scaled by, all of one metric source in one call, every few seconds; and at once where a source
//! says that an empty one has a message.

mod history;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use daemon::plugin_manager::MetricSources;
use plugin_host::{CallError, RunningMetricSource};
use scaler_types::{QueueReading, backoff::Backoff};
use tokio::{
    sync::{mpsc, watch},
    task::{Id, JoinSet},
    time::{Instant, sleep_until},
};

pub(crate) use history::{QueueHistory, QueueNotIdle};

/// Between two readings of a queue; each is up to a fifth less, so that readings of several queues do not stay together.
const POLL_INTERVAL: Backoff = Backoff::new(Duration::from_secs(5), Duration::from_secs(5));
/// Between the reading that found the first message and the next: others may have come right after it.
const FOLLOW_UP_INTERVAL: Duration = Duration::from_secs(1);
/// Between two readings of one that cannot be read.
const ERROR_PAUSE: Backoff = Backoff::new(Duration::from_secs(5), Duration::from_secs(60));
/// A queue is read so much early where others of its source are read.
const COALESCE_WITHIN: Duration = Duration::from_secs(1);
/// Between two failed calls of a source that waits for messages.
const WATCH_PAUSE: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));

/// Readings of some queues.
#[derive(Debug)]
pub(crate) struct QueueReadings {
    /// When they were begun.
    pub(crate) at: Instant,
    /// By queue.
    pub(crate) readings: Vec<(String, Result<QueueReading, Arc<str>>)>,
}

/// Reads queues as long as this process is the leader.
pub(crate) struct QueueReader {
    sources: MetricSources,
    wanted: watch::Receiver<Arc<BTreeSet<String>>>,
    readings: mpsc::Sender<QueueReadings>,
    queues: BTreeMap<String, QueueState>,
    running: JoinSet<Finished>,
    calls: HashMap<Id, Call>,
    /// What is waited for at each source.
    watched: HashMap<SourceKey, Watched>,
}

#[derive(Debug)]
struct QueueState {
    due: Instant,
    errors: Backoff,
    reading: bool,
    failed: bool,
    /// It was empty at its last reading, and no source has said otherwise since.
    empty: bool,
    /// Its source has said that it has its first message, which is to be read.
    noticed: bool,
}

/// Identifies a running source.
type SourceKey = usize;

/// The queues that one source watches.
struct Watched {
    task: tokio::task::AbortHandle,
    queues: HashSet<String>,
}

enum Call {
    Read(Vec<String>),
    Watch(SourceKey),
}

enum Finished {
    Read(QueueReadings),
    Changed(Result<Vec<String>, CallError>),
    /// The pause after a failed call is over.
    Paused,
}

fn source_key(source: &Arc<dyn RunningMetricSource>) -> SourceKey {
    Arc::as_ptr(source).cast::<()>().addr()
}

// === impl QueueReader ===

impl QueueReader {
    /// Reads what is `wanted` by those of `sources` that read its schemes.
    pub(crate) fn new(
        sources: MetricSources,
        wanted: watch::Receiver<Arc<BTreeSet<String>>>,
        readings: mpsc::Sender<QueueReadings>,
    ) -> Self {
        let (queues, running) = Default::default();
        Self { sources, wanted, readings, queues, running, calls: HashMap::new(), watched: HashMap::new() }
    }

    /// Runs until its readings are wanted no more.
    #[expect(clippy::disallowed_methods, reason = "a queue is read at intervals: most brokers tell nothing")]
    pub(crate) async fn run(mut self) {
        let mut failed_watches = BTreeMap::<SourceKey, Backoff>::new();
        self.wanted.mark_changed();
        loop {
            let due = self.queues.values().filter(|queue| !queue.reading).map(|queue| queue.due).min();
            let until_due = async move {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.wanted.changed() => match changed {
                    Ok(()) => self.set_wanted(),
                    Err(_) => return,
                },
                Some(finished) = self.running.join_next_with_id() => {
                    let (id, finished) = match finished {
                        Ok((id, finished)) => (id, Some(finished)),
                        // Aborted, or it panicked: read again at the next turn.
                        Err(error) => (error.id(), None),
                    };
                    match (self.calls.remove(&id), finished) {
                        (Some(Call::Read(_)), Some(Finished::Read(readings))) => {
                            self.record(&readings);
                            if self.readings.send(readings).await.is_err() {
                                return;
                            }
                        }
                        (Some(Call::Read(queues)), _) => self.release(&queues),
                        // Replaced by another that watches more queues.
                        (Some(Call::Watch(source)), _) if !self.is_watching(source, id) => {}
                        (Some(Call::Watch(source)), Some(Finished::Changed(result))) => {
                            self.watched.remove(&source);
                            match result {
                                Ok(changed) => {
                                    failed_watches.remove(&source);
                                    self.read_now(&changed);
                                }
                                Err(error) => {
                                    let pause = failed_watches.entry(source).or_insert(WATCH_PAUSE).next_pause();
                                    tracing::debug!(%error, "failed to wait for messages; reading the queues at intervals");
                                    self.pause_watch(source, pause);
                                }
                            }
                        }
                        (Some(Call::Watch(source)), _) => drop(self.watched.remove(&source)),
                        (None, _) => {}
                    }
                }
                () = self.sources.changed() => self.read_failed(),
                () = until_due => {}
            }
            self.read_due();
            self.watch_empty();
        }
    }

    fn is_watching(&self, source: SourceKey, task: Id) -> bool {
        self.watched.get(&source).is_some_and(|watched| watched.task.id() == task)
    }

    fn set_wanted(&mut self) {
        let wanted = self.wanted.borrow_and_update().clone();
        self.queues.retain(|queue, _| wanted.contains(queue));
        for queue in wanted.iter() {
            self.queues.entry(queue.clone()).or_insert_with(|| QueueState {
                due: Instant::now(),
                errors: ERROR_PAUSE,
                reading: false,
                failed: false,
                empty: false,
                noticed: false,
            });
        }
    }

    /// Has these read at once.
    fn read_now(&mut self, queues: &[String]) {
        for queue in queues {
            if let Some(state) = self.queues.get_mut(queue) {
                (state.due, state.empty, state.noticed) = (Instant::now(), false, true);
            }
        }
    }

    /// Another source may read what could not be read.
    fn read_failed(&mut self) {
        let now = Instant::now();
        for state in self.queues.values_mut().filter(|state| state.failed) {
            state.due = now;
        }
    }

    fn release(&mut self, queues: &[String]) {
        for queue in queues {
            if let Some(state) = self.queues.get_mut(queue) {
                (state.reading, state.due) = (false, Instant::now() + ERROR_PAUSE.pause_after(1));
            }
        }
    }

    /// Begins to read the queues that are due, those of one source in one call. Those that failed have calls of their own, which may
    /// take long, and so have those with a first message, which wait for no other.
    fn read_due(&mut self) {
        let now = Instant::now();
        if !self.queues.values().any(|queue| !queue.reading && queue.due <= now) {
            return;
        }
        let mut calls =
            HashMap::<(SourceKey, bool, bool), (Arc<dyn RunningMetricSource>, Vec<String>, bool)>::new();
        let mut unroutable = Vec::new();
        for (queue, state) in self.queues.iter_mut().filter(|(_, state)| !state.reading) {
            let is_due = state.due <= now;
            if state.due > now + COALESCE_WITHIN {
                continue;
            }
            match self.sources.route(queue) {
                Ok(source) => {
                    let call = calls
                        .entry((source_key(&source), state.failed, state.noticed))
                        .or_insert_with(|| (source, Vec::new(), false));
                    call.1.push(queue.clone());
                    call.2 |= is_due;
                }
                Err(why) if is_due => unroutable.push((queue.clone(), Err(why.to_string().into()))),
                Err(_) => {}
            }
        }
        for (source, queues, _) in calls.into_values().filter(|(.., is_due)| *is_due) {
            self.mark_reading(&queues);
            let asked = queues.clone();
            let task = self.running.spawn(async move { Finished::Read(read(&*source, asked).await) });
            self.calls.insert(task.id(), Call::Read(queues));
        }
        if !unroutable.is_empty() {
            let queues: Vec<_> = unroutable.iter().map(|(queue, _)| queue.clone()).collect();
            self.mark_reading(&queues);
            let readings = QueueReadings { at: now, readings: unroutable };
            let task = self.running.spawn(async move { Finished::Read(readings) });
            self.calls.insert(task.id(), Call::Read(queues));
        }
    }

    fn mark_reading(&mut self, queues: &[String]) {
        for queue in queues {
            if let Some(state) = self.queues.get_mut(queue) {
                state.reading = true;
            }
        }
    }

    /// Notes when each is to be read next.
    fn record(&mut self, readings: &QueueReadings) {
        let now = Instant::now();
        let interval = POLL_INTERVAL.pause_after(1);
        for (queue, reading) in &readings.readings {
            let Some(state) = self.queues.get_mut(queue) else { continue };
            state.reading = false;
            match reading {
                Ok(reading) => {
                    (state.errors, state.failed) = (ERROR_PAUSE, false);
                    let follows_up = std::mem::take(&mut state.noticed);
                    state.due = readings.at + if follows_up { FOLLOW_UP_INTERVAL } else { interval };
                    state.empty = reading.waiting == Some(0);
                }
                Err(_) => {
                    (state.failed, state.empty) = (true, false);
                    state.due = now + state.errors.next_pause();
                }
            }
        }
    }

    /// Has each source wait for messages in its empty queues.
    fn watch_empty(&mut self) {
        let mut empty = HashMap::<SourceKey, (Arc<dyn RunningMetricSource>, HashSet<String>)>::new();
        for (queue, _) in self.queues.iter().filter(|(_, state)| state.empty) {
            if let Ok(source) = self.sources.route(queue) {
                empty
                    .entry(source_key(&source))
                    .or_insert_with(|| (source, HashSet::new()))
                    .1
                    .insert(queue.clone());
            }
        }
        for (key, (source, queues)) in empty {
            if let Some(watched) = self.watched.get(&key) {
                // Fewer than it watches are fine: it says so of one that is read anyway.
                if queues.is_subset(&watched.queues) {
                    continue;
                }
                watched.task.abort();
            }
            let asked: Vec<_> = queues.iter().cloned().collect();
            let task = self.running.spawn(async move { Finished::Changed(source.changes(&asked).await) });
            self.calls.insert(task.id(), Call::Watch(key));
            self.watched.insert(key, Watched { task, queues });
        }
    }

    /// Watches nothing at this source for a while.
    fn pause_watch(&mut self, source: SourceKey, pause: Duration) {
        #[expect(clippy::disallowed_methods, reason = "a source that fails is asked again after a pause")]
        let task = self.running.spawn(async move {
            tokio::time::sleep(pause).await;
            Finished::Paused
        });
        self.calls.insert(task.id(), Call::Watch(source));
        let queues = self.queues.keys().cloned().collect();
        self.watched.insert(source, Watched { task, queues });
    }
}

async fn read(source: &dyn RunningMetricSource, queues: Vec<String>) -> QueueReadings {
    let at = Instant::now();
    let readings: Vec<Result<QueueReading, Arc<str>>> = match source.read(&queues).await {
        Ok(readings) => {
            let mut readings: Vec<_> = readings
                .into_iter()
                .map(|reading| reading.map_err(|error| error.to_string().into()))
                .collect();
            let missing = || Err("its metric source did not answer for it".into());
            readings.resize_with(queues.len(), missing);
            readings
        }
        Err(error) => {
            let why: Arc<str> = error.to_string().into();
            queues.iter().map(|_| Err(why.clone())).collect()
        }
    };
    QueueReadings { at, readings: queues.into_iter().zip(readings).collect() }
}
