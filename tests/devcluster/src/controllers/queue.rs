//! Work by key: each key at most once at a time, again if it changed meanwhile, later if it failed.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    future::Future,
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinSet, time::Instant};

use super::Error;
use crate::cache::{Key, rest};

/// Keys worked on at once.
const AT_ONCE: usize = 32;
/// The first pause after a failure and the longest; each failure in a row doubles it, as client-go's queues do.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(10));

/// Takes keys to be worked on.
#[derive(Clone)]
pub struct Queue(mpsc::UnboundedSender<Key>);

/// Where work takes its keys from.
pub struct Keys(mpsc::UnboundedReceiver<Key>);

/// What there is to do: by key, once each.
#[derive(Default)]
struct Work {
    waiting: VecDeque<Key>,
    queued: HashSet<Key>,
    running: HashSet<Key>,
    /// The time of what is to be done later, and the key's own.
    later: BTreeSet<(Instant, Key)>,
    due: HashMap<Key, Instant>,
    failures: HashMap<Key, u32>,
}

/// A queue and its other end.
pub fn queue() -> (Queue, Keys) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Queue(sender), Keys(receiver))
}

// === impl Queue ===

impl Queue {
    /// The key is worked on from now on, or once more.
    pub fn add(&self, key: Key) {
        // The other end goes with all controllers.
        let _ = self.0.send(key);
    }
}

// === impl Keys ===

impl Keys {
    /// Works for ever. `reconcile` may ask to be called again after some time.
    pub async fn work<F>(mut self, reconcile: impl Fn(Key) -> F)
    where
        F: Future<Output = Result<Option<Duration>, Error>> + Send + 'static,
    {
        let mut work = Work::default();
        let mut jobs = JoinSet::new();
        loop {
            while jobs.len() < AT_ONCE
                && let Some(key) = work.next()
            {
                let job = reconcile(key.clone());
                jobs.spawn(async move { (key, job.await) });
            }
            let due = work.later.first().map(|(due, _)| due.saturating_duration_since(Instant::now()));
            tokio::select! {
                key = self.0.recv() => match key {
                    Some(key) => work.add(key),
                    None => return,
                },
                Some(done) = jobs.join_next() => match done {
                    Ok((key, result)) => work.done(key, result),
                    Err(error) => tracing::error!(%error, "a controller's work broke off"),
                },
                () = rest(due.unwrap_or_default()), if due.is_some() => work.ring(),
            }
        }
    }
}

// === impl Work ===

impl Work {
    fn add(&mut self, key: Key) {
        if self.queued.insert(key.clone()) {
            self.waiting.push_back(key);
        }
    }

    fn next(&mut self) -> Option<Key> {
        // Keys that are being worked on wait for their end.
        let at = self.waiting.iter().position(|key| !self.running.contains(key))?;
        let key = self.waiting.remove(at)?;
        self.queued.remove(&key);
        self.running.insert(key.clone());
        Some(key)
    }

    fn done(&mut self, key: Key, result: Result<Option<Duration>, Error>) {
        self.running.remove(&key);
        match result {
            Ok(again) => {
                self.failures.remove(&key);
                if let Some(pause) = again {
                    self.schedule(key, pause);
                }
            }
            Err(error) => {
                let failures = self.failures.entry(key.clone()).or_default();
                let pause = (PAUSE.0 * 2_u32.saturating_pow(*failures)).min(PAUSE.1);
                *failures = (*failures + 1).min(20);
                tracing::debug!(?key, %error, ?pause, "a controller's work failed, it is tried again");
                self.schedule(key, pause);
            }
        }
    }

    fn schedule(&mut self, key: Key, pause: Duration) {
        let due = Instant::now() + pause;
        if let Some(known) = self.due.get(&key) {
            if *known <= due {
                return;
            }
            self.later.remove(&(*known, key.clone()));
        }
        self.due.insert(key.clone(), due);
        self.later.insert((due, key));
    }

    fn ring(&mut self) {
        let now = Instant::now();
        while self.later.first().is_some_and(|(due, _)| *due <= now) {
            let Some((_, key)) = self.later.pop_first() else { return };
            self.due.remove(&key);
            self.add(key);
        }
    }
}
