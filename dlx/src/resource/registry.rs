//! All resources this DLX knows.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{Entry, Key};
use crate::clock;

/// All resources, by kind, namespace and name.
#[derive(Debug, Default)]
pub struct Registry {
    entries: Mutex<HashMap<Key, Arc<Entry>>>,
    /// When one that had anything to do was last forgotten: milliseconds of [`clock::now_ms`], plus one; 0 is never.
    forgotten: AtomicU64,
}

// === impl Registry ===

impl Registry {
    /// The resource, if it is known.
    pub fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        self.lock().get(key).cloned()
    }

    /// The resource, made if it is not known; whether it was made.
    pub fn get_or(&self, key: &Key, make: impl FnOnce() -> Entry) -> (Arc<Entry>, bool) {
        let mut entries = self.lock();
        if let Some(entry) = entries.get(key) {
            return (entry.clone(), false);
        }
        let mut entry = make();
        entry.since_start = self.forgotten().is_none();
        let entry = Arc::new(entry);
        entries.insert(key.clone(), entry.clone());
        (entry, true)
    }

    /// Forgets one.
    pub fn remove(&self, key: &Key) -> Option<Arc<Entry>> {
        let mut entries = self.lock();
        let entry = entries.remove(key)?;
        if entry.counts.idle().is_some() || !entry.since_start {
            self.forgotten.store(clock::now_ms() + 1, Ordering::Relaxed);
        }
        Some(entry)
    }

    /// How long ago one that had anything to do was last forgotten, and what was counted of it; `None`: never.
    pub fn forgotten(&self) -> Option<Duration> {
        self.forgotten.load(Ordering::Relaxed).checked_sub(1).map(clock::since)
    }

    /// All, the one that was seen first at the front.
    pub fn all(&self) -> Vec<Arc<Entry>> {
        let mut all: Vec<_> = self.lock().values().cloned().collect();
        all.sort_by(|a, b| {
            (a.first_seen, &a.key.id, &a.key.kind).cmp(&(b.first_seen, &b.key.id, &b.key.kind))
        });
        all
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
