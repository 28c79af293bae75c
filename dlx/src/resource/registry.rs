//! All resources this DLX knows.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Entry, Key};

/// All resources, by kind, namespace and name.
#[derive(Debug, Default)]
pub struct Registry {
    entries: Mutex<HashMap<Key, Arc<Entry>>>,
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
        let entry = Arc::new(make());
        entries.insert(key.clone(), entry.clone());
        (entry, true)
    }

    /// Forgets one.
    pub fn remove(&self, key: &Key) -> Option<Arc<Entry>> {
        self.lock().remove(key)
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
