//! Where objects are: tables under one lock, with one counter of versions for all of them and a log of changes for each.

mod object;
mod table;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
};

use serde_json::Value;
use tokio::sync::watch;

pub use self::{
    object::{Key, Object, map, text},
    table::{Change, Event, Table},
};

/// Which table: group and plural, shared by all versions of a kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId {
    /// API group, empty for the core one.
    pub group: String,
    /// The resource's plural name.
    pub plural: String,
}

/// All objects.
#[derive(Debug)]
pub struct Store(Mutex<Tables>);

/// All objects, locked: what is read and written between taking and dropping this happens at once.
#[derive(Debug)]
pub struct Tables {
    revision: u64,
    tables: HashMap<TableId, Table>,
    /// Who is alive, by uid.
    uids: HashMap<String, (TableId, Key)>,
    /// Who names whom as its owner: uid of the owner, and its dependents.
    dependents: HashMap<String, HashSet<(TableId, Key)>>,
    /// Events that a table's log keeps.
    capacity: usize,
    /// Uids to look at for garbage collection.
    collect: tokio::sync::mpsc::UnboundedSender<Orphan>,
}

/// What the garbage collector is to look at.
#[derive(Debug)]
pub enum Orphan {
    /// This object's owners.
    Check(TableId, Key),
    /// Those that belonged to this uid, which is gone.
    Owner(String),
    /// This namespace, which is to go once it is empty.
    Namespace(String),
}

// === impl TableId ===

impl TableId {
    /// The table of a group's resource.
    pub fn new(group: &str, plural: &str) -> Self {
        Self { group: group.to_owned(), plural: plural.to_owned() }
    }
}

// === impl Store ===

impl Store {
    /// An empty store whose logs keep `capacity` events each. Objects that may have lost their owner are sent to `collect`.
    pub fn new(capacity: usize, collect: tokio::sync::mpsc::UnboundedSender<Orphan>) -> Self {
        Self(Mutex::new(Tables {
            // The first revision is no 0 or 1: those mean something else to clients.
            revision: 1,
            tables: HashMap::new(),
            uids: HashMap::new(),
            dependents: HashMap::new(),
            capacity,
            collect,
        }))
    }

    /// All tables, locked.
    pub fn lock(&self) -> MutexGuard<'_, Tables> {
        // A panic in one request says nothing of the objects: each is replaced whole.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

// === impl Tables ===

impl Tables {
    /// The latest version.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The table, if anything was ever in it.
    pub fn table(&self, id: &TableId) -> Option<&Table> {
        self.tables.get(id)
    }

    /// All tables that there are.
    pub fn ids(&self) -> Vec<TableId> {
        self.tables.keys().cloned().collect()
    }

    /// The table, made if it is new.
    pub fn table_mut(&mut self, id: &TableId) -> &mut Table {
        let capacity = self.capacity;
        self.tables.entry(id.clone()).or_insert_with(|| Table::new(capacity))
    }

    /// Told at each change of the table.
    pub fn subscribe(&mut self, id: &TableId) -> watch::Receiver<u64> {
        self.table_mut(id).subscribe()
    }

    /// An object.
    pub fn get(&self, id: &TableId, key: &Key) -> Option<Arc<Object>> {
        self.tables.get(id)?.objects.get(key).cloned()
    }

    /// Where the object of that uid is.
    pub fn by_uid(&self, uid: &str) -> Option<&(TableId, Key)> {
        self.uids.get(uid)
    }

    /// Those that name `uid` as an owner.
    pub fn dependents(&self, uid: &str) -> Vec<(TableId, Key)> {
        self.dependents.get(uid).map(|all| all.iter().cloned().collect()).unwrap_or_default()
    }

    /// Creates or replaces an object; `value` has neither `kind` nor `apiVersion`.
    pub fn put(&mut self, id: &TableId, value: Value) -> Arc<Object> {
        self.revision += 1;
        let object = Arc::new(Object::new(value, self.revision));
        let key = object.key();
        let place = (id.clone(), key.clone());
        let old = self.table_mut(id).put(key.clone(), Arc::clone(&object));
        let new = old.is_none();
        if let Some(old) = &old {
            self.forget_owners(old, &place);
        } else {
            self.uids.insert(object.uid().to_owned(), place.clone());
        }
        for owner in owners(&object.value) {
            self.dependents.entry(owner.to_owned()).or_default().insert(place.clone());
            // Of a new one it is not known yet whether its owners are those that it names.
            if new || !self.uids.contains_key(owner) {
                self.orphan(Orphan::Check(id.clone(), key.clone()));
            }
        }
        object
    }

    /// Takes an object out.
    pub fn remove(&mut self, id: &TableId, key: &Key) -> Option<Arc<Object>> {
        self.tables.get(id)?.objects.get(key)?;
        self.revision += 1;
        let revision = self.revision;
        let gone = self.table_mut(id).remove(key, revision)?;
        let uid = gone.uid().to_owned();
        self.uids.remove(&uid);
        self.forget_owners(&gone, &(id.clone(), key.clone()));
        for owner in owners(&gone.value).map(str::to_owned).collect::<Vec<_>>() {
            // An owner that waits for its dependents looks again.
            if let Some((table, key)) = self.uids.get(&owner).cloned() {
                self.orphan(Orphan::Check(table, key));
            }
        }
        if self.dependents.contains_key(&uid) {
            self.orphan(Orphan::Owner(uid));
        }
        if !key.namespace.is_empty() {
            self.orphan(Orphan::Namespace(key.namespace.clone()));
        }
        Some(gone)
    }

    /// History up to now is forgotten, for all tables.
    pub fn compact(&mut self) {
        let revision = self.revision;
        for table in self.tables.values_mut() {
            table.compact(revision);
        }
    }

    /// Has the garbage collector look.
    pub fn orphan(&self, orphan: Orphan) {
        // It ends with the server only.
        let _ = self.collect.send(orphan);
    }

    fn forget_owners(&mut self, object: &Object, place: &(TableId, Key)) {
        for owner in owners(&object.value) {
            if let Some(all) = self.dependents.get_mut(owner) {
                all.remove(place);
                if all.is_empty() {
                    self.dependents.remove(owner);
                }
            }
        }
    }
}

/// The uids of an object's owners.
fn owners(value: &Value) -> impl Iterator<Item = &str> {
    let all = value["metadata"]["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().filter_map(|owner| owner["uid"].as_str())
}
