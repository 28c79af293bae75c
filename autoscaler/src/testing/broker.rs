//! A metric source in memory.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use daemon::plugin_manager::MetricSources;
use plugin_host::{CallError, CallFuture, RunningMetricSource};
use scaler_types::{QueueError, QueueReading};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

/// A source of which the test says what it answers, by a clock that the test moves.
pub(crate) struct Broker {
    schemes: Vec<String>,
    state: Mutex<BrokerState>,
    told: Notify,
    read: watch::Sender<usize>,
}

/// What a [`Broker`] holds and how it behaves.
#[derive(Default)]
pub(crate) struct BrokerState {
    /// What waits in each queue; an empty one is left out.
    pub(crate) waiting: BTreeMap<String, u64>,
    /// What its workers have taken; none: it does not show that.
    pub(crate) in_flight: Option<u64>,
    /// Queues that cannot be read.
    pub(crate) refused: BTreeSet<String>,
    /// The next reading panics.
    pub(crate) panics: bool,
    /// How long a reading takes.
    pub(crate) takes: Duration,
    /// The readings so far: when, and of which queues.
    pub(crate) reads: Vec<(Instant, Vec<String>)>,
    /// The queues of each call that waited for messages.
    pub(crate) watches: Vec<Vec<String>>,
    changed: VecDeque<Result<Vec<String>, CallError>>,
}

impl Default for Broker {
    fn default() -> Self {
        let (state, told, read) = Default::default();
        Self { schemes: vec!["test".to_owned()], state, told, read }
    }
}

impl Broker {
    /// What it holds and how it behaves.
    pub(crate) fn state(&self) -> MutexGuard<'_, BrokerState> {
        self.state.lock().unwrap()
    }

    /// Waits until so many readings have begun.
    pub(crate) async fn until_reads(&self, count: usize) {
        self.read.subscribe().wait_for(|reads| *reads >= count).await.unwrap();
    }

    /// What the call that waits for messages answers.
    pub(crate) fn tell(&self, changed: Result<Vec<String>, CallError>) {
        self.state().changed.push_back(changed);
        self.told.notify_one();
    }
}

impl Broker {
    /// The broker alone, which reads `test://...`.
    pub(crate) fn sources(self: &Arc<Self>) -> MetricSources {
        MetricSources::fixed(vec![self.clone()])
    }

    /// So many messages wait in this queue from now on, and its source says so.
    pub(crate) fn put(&self, queue: &str, waiting: u64) {
        self.state().waiting.insert(queue.to_owned(), waiting);
        self.tell(Ok(vec![queue.to_owned()]));
    }
}

impl RunningMetricSource for Broker {
    fn kind(&self) -> &str {
        "test"
    }

    fn namespace(&self) -> &str {
        "demo"
    }

    fn schemes(&self) -> &[String] {
        &self.schemes
    }

    fn read<'a>(
        &'a self,
        queues: &'a [String],
    ) -> CallFuture<'a, Result<Vec<Result<QueueReading, QueueError>>, CallError>> {
        Box::pin(async move {
            let (takes, panics) = {
                let mut state = self.state();
                state.reads.push((Instant::now(), queues.to_vec()));
                self.read.send_replace(state.reads.len());
                (state.takes, std::mem::take(&mut state.panics))
            };
            assert!(!panics, "the test wants this");
            #[expect(clippy::disallowed_methods, reason = "the test moves its clock")]
            tokio::time::sleep(takes).await;
            let state = self.state();
            let read = |queue: &String| match state.refused.contains(queue) {
                true => Err(QueueError::Unavailable("connection refused".to_owned())),
                false => Ok(QueueReading {
                    waiting: Some(state.waiting.get(queue).copied().unwrap_or(0)),
                    in_flight: state.in_flight,
                    ..QueueReading::default()
                }),
            };
            Ok(queues.iter().map(read).collect())
        })
    }

    fn changes<'a>(&'a self, queues: &'a [String]) -> CallFuture<'a, Result<Vec<String>, CallError>> {
        Box::pin(async move {
            self.state().watches.push(queues.to_vec());
            loop {
                if let Some(changed) = self.state().changed.pop_front() {
                    return changed;
                }
                self.told.notified().await;
            }
        })
    }
}
