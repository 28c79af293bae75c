//! The objects of one resource and what happened to them lately.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use tokio::sync::watch;

use super::object::{Key, Object};

/// The objects of one resource.
#[derive(Debug)]
pub struct Table {
    /// What there is now.
    pub objects: BTreeMap<Key, Arc<Object>>,
    log: VecDeque<Arc<Event>>,
    /// Events up to this revision are forgotten.
    floor: u64,
    capacity: usize,
    changed: watch::Sender<u64>,
}

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Added,
    /// It is another version.
    Modified,
    /// It is gone.
    Deleted,
}

/// One change.
#[derive(Debug)]
pub struct Event {
    /// What happened.
    pub change: Change,
    /// The object after it; of a deleted one the last version, with the revision of the deletion.
    pub object: Arc<Object>,
    /// The object before it.
    pub before: Option<Arc<Object>>,
}

// === impl Table ===

impl Table {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            objects: BTreeMap::new(),
            log: VecDeque::new(),
            floor: 0,
            capacity,
            changed: watch::Sender::new(0),
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(super) fn put(&mut self, key: Key, object: Arc<Object>) -> Option<Arc<Object>> {
        let before = self.objects.insert(key, Arc::clone(&object));
        let change = if before.is_some() { Change::Modified } else { Change::Added };
        self.note(Event { change, object, before: before.clone() });
        before
    }

    pub(super) fn remove(&mut self, key: &Key, revision: u64) -> Option<Arc<Object>> {
        let before = self.objects.remove(key)?;
        let object = Arc::new(before.at(revision));
        self.note(Event { change: Change::Deleted, object: Arc::clone(&object), before: Some(before) });
        Some(object)
    }

    fn note(&mut self, event: Event) {
        let revision = event.object.revision;
        self.log.push_back(Arc::new(event));
        if self.log.len() > self.capacity
            && let Some(oldest) = self.log.pop_front()
        {
            self.floor = oldest.object.revision;
        }
        self.changed.send_replace(revision);
    }

    pub(super) fn compact(&mut self, revision: u64) {
        self.log.clear();
        self.floor = revision;
        // Who waits for a change is to see that its version is gone.
        self.changed.send_replace(revision);
    }

    /// The oldest revision from which changes are known.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Changes after `revision`, at most `most`; `None`: some of them are forgotten.
    pub fn since(&self, revision: u64, most: usize) -> Option<Vec<Arc<Event>>> {
        if revision < self.floor {
            return None;
        }
        let from = self.log.partition_point(|event| event.object.revision <= revision);
        Some(self.log.range(from..).take(most).cloned().collect())
    }

    /// The objects as they were at `revision` that come after `start`; `None`: it is forgotten.
    pub fn at(&self, revision: u64, start: &Bound<Key>) -> Option<Vec<Arc<Object>>> {
        if revision < self.floor {
            return None;
        }
        // What an object was then is what it was before the first change since.
        let mut then: BTreeMap<Key, Option<Arc<Object>>> = BTreeMap::new();
        let from = self.log.partition_point(|event| event.object.revision <= revision);
        for event in self.log.range(from..).rev() {
            then.insert(event.object.key(), event.before.clone());
        }
        let range = (start.clone(), Bound::Unbounded);
        if then.is_empty() {
            return Some(self.objects.range(range).map(|(_, object)| Arc::clone(object)).collect());
        }
        let mut all: BTreeMap<&Key, &Arc<Object>> = self.objects.range(range.clone()).collect();
        for (key, object) in then.range(range) {
            match object {
                Some(object) => all.insert(key, object),
                None => all.remove(key),
            };
        }
        Some(all.into_values().map(Arc::clone).collect())
    }
}
