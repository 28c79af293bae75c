//! What a client knows of one kind of object: the API's watch, and its own writes ahead of the watch.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    fmt::Debug,
    future::Future,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, pin_mut};
use kube::{
    Api, Resource,
    runtime::watcher::{self, Event},
};
use serde::de::DeserializeOwned;

/// The first pause after an error of the API, and the longest: each failure in a row doubles it.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// Deleted objects that are remembered, so that a late answer to a write does not bring one back.
const REMEMBERED: usize = 4096;

/// Which object: namespace (empty for cluster-wide kinds) and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Empty for cluster-wide kinds.
    pub namespace: String,
    /// The object's name.
    pub name: String,
}

/// Under which words an object is to be found.
pub type Index<K> = fn(&K) -> Vec<String>;

/// All objects of one kind. Clones share them.
pub struct Cache<K>(Arc<Mutex<Inner<K>>>);

struct Inner<K> {
    objects: HashMap<Key, Arc<K>>,
    index: Index<K>,
    indexed: HashMap<String, BTreeSet<Key>>,
    /// What the list in progress has brought, and what this client itself wrote meanwhile.
    listed: Option<HashSet<Key>>,
    deleted: (HashSet<String>, VecDeque<String>),
}

/// The change of one object: how it was, how it is.
pub struct Change<K> {
    /// `None`: it was not known.
    pub old: Option<Arc<K>>,
    /// `None`: it is gone.
    pub new: Option<Arc<K>>,
}

// === impl Key ===

impl Key {
    /// The key of an object that came from the API.
    pub fn of<K: Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }

    /// The key of a name in the same namespace as `object`.
    pub fn beside<K: Resource>(object: &K, name: &str) -> Self {
        Self { namespace: object.meta().namespace.clone().unwrap_or_default(), name: name.to_owned() }
    }
}

// === impl Change ===

impl<K> Change<K> {
    /// The object as it is, or as it last was.
    pub fn any(&self) -> &K {
        self.new.as_ref().or(self.old.as_ref()).expect("a change has at least one side")
    }

    /// Both sides that there are.
    pub fn sides(&self) -> impl Iterator<Item = &Arc<K>> {
        self.old.iter().chain(&self.new)
    }
}

// === impl Cache ===

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static> Cache<K> {
    /// An empty one; [`Cache::follow`] fills it.
    pub fn new(index: Index<K>) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            objects: HashMap::new(),
            index,
            indexed: HashMap::new(),
            listed: None,
            deleted: Default::default(),
        })))
    }

    /// The object of that key.
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.lock().objects.get(key).cloned()
    }

    /// The objects under a word of the index, by key.
    pub fn find(&self, word: &str) -> Vec<Arc<K>> {
        let inner = self.lock();
        let keys = inner.indexed.get(word).into_iter().flatten();
        keys.filter_map(|key| inner.objects.get(key).cloned()).collect()
    }

    /// Takes in what the API answered to a write, which the watch will say later.
    pub fn wrote(&self, object: K) {
        let mut inner = self.lock();
        let uid = object.meta().uid.clone().unwrap_or_default();
        if inner.deleted.0.contains(&uid) {
            return;
        }
        let key = Key::of(&object);
        if inner.objects.get(&key).is_some_and(|known| version(&**known) >= version(&object)) {
            return;
        }
        if let Some(listed) = &mut inner.listed {
            listed.insert(key);
        }
        inner.put(object);
    }

    /// The API said that the object is gone; the watch will say so later.
    pub fn removed(&self, object: &K) {
        let mut inner = self.lock();
        let key = Key::of(object);
        if inner.objects.get(&key).is_some_and(|known| known.meta().uid == object.meta().uid) {
            inner.take(&key);
        }
    }

    /// Follows the API for ever, through whatever errors. `changed` is called for each change, `listed` after each list.
    pub async fn follow(self, api: Api<K>, changed: impl Fn(Change<K>), listed: impl Fn()) {
        let events = watcher::watcher(api, watcher::Config::default());
        pin_mut!(events);
        let mut pause = PAUSE.0;
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    pause = PAUSE.0;
                    let done = matches!(event, Event::InitDone);
                    for change in self.apply(event) {
                        changed(change);
                    }
                    if done {
                        listed();
                    }
                }
                Err(error) => {
                    tracing::debug!(kind = %K::kind(&()), %error, "the watch failed, it is made again");
                    rest(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }

    fn apply(&self, event: Event<K>) -> Vec<Change<K>> {
        let mut inner = self.lock();
        match event {
            Event::Init => {
                inner.listed = Some(HashSet::new());
                Vec::new()
            }
            Event::InitApply(object) => {
                if let Some(listed) = &mut inner.listed {
                    listed.insert(Key::of(&object));
                }
                inner.newer(object)
            }
            Event::Apply(object) => inner.newer(object),
            Event::Delete(object) => {
                let key = Key::of(&object);
                inner.forget(object.meta().uid.clone());
                // One of that name may have been made again, and answered, already.
                match inner.objects.get(&key) {
                    Some(known) if known.meta().uid != object.meta().uid => Vec::new(),
                    _ => {
                        let old = inner.take(&key).unwrap_or_else(|| Arc::new(object));
                        vec![Change { old: Some(old), new: None }]
                    }
                }
            }
            Event::InitDone => {
                let listed = inner.listed.take().unwrap_or_default();
                let gone: Vec<Key> =
                    inner.objects.keys().filter(|key| !listed.contains(*key)).cloned().collect();
                gone.iter()
                    .filter_map(|key| inner.take(key))
                    .map(|old| Change { old: Some(old), new: None })
                    .collect()
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<K>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Inner ===

impl<K: Resource<DynamicType = ()>> Inner<K> {
    /// Puts it in unless a later one is known. What was known because this client wrote it is reported all the same.
    fn newer(&mut self, object: K) -> Vec<Change<K>> {
        let key = Key::of(&object);
        let old = self.objects.get(&key).cloned();
        match &old {
            Some(known) if known.meta().uid == object.meta().uid && version(&**known) > version(&object) => {
                Vec::new()
            }
            // Made again under its name unseen: two changes.
            Some(known) if known.meta().uid != object.meta().uid => {
                self.forget(known.meta().uid.clone());
                let gone = Change { old: self.take(&key), new: None };
                vec![gone, Change { old: None, new: Some(self.put(object)) }]
            }
            _ => vec![Change { old, new: Some(self.put(object)) }],
        }
    }

    fn put(&mut self, object: K) -> Arc<K> {
        let key = Key::of(&object);
        self.take(&key);
        for word in (self.index)(&object) {
            self.indexed.entry(word).or_default().insert(key.clone());
        }
        let object = Arc::new(object);
        self.objects.insert(key, Arc::clone(&object));
        object
    }

    fn take(&mut self, key: &Key) -> Option<Arc<K>> {
        let object = self.objects.remove(key)?;
        for word in (self.index)(&object) {
            if let Some(keys) = self.indexed.get_mut(&word) {
                keys.remove(key);
                if keys.is_empty() {
                    self.indexed.remove(&word);
                }
            }
        }
        Some(object)
    }

    fn forget(&mut self, uid: Option<String>) {
        let Some(uid) = uid else { return };
        let (known, order) = &mut self.deleted;
        if known.insert(uid.clone()) {
            order.push_back(uid);
        }
        if order.len() > REMEMBERED
            && let Some(oldest) = order.pop_front()
        {
            known.remove(&oldest);
        }
    }
}

/// Resource versions of one kind are ordered, as Kubernetes says since 1.35.
fn version<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// Lets time pass where no event says when a thing has become possible: after an error, in a back-off, in a fault that was ordered.
#[expect(clippy::disallowed_methods, reason = "back-offs, grace periods and ordered delays are time itself")]
pub fn rest(time: Duration) -> impl Future<Output = ()> {
    tokio::time::sleep(time)
}
