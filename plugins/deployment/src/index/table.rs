//! Facts of one type by name, in the order of their objects' changes.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::objects::{ObjectName, TrimmedObject};

/// How many objects that are gone are remembered, so that a late event does not bring one back.
const MAX_REMEMBERED: usize = 20_000;

/// Facts of one type.
#[derive(Debug)]
pub(crate) struct ObjectTable<F> {
    all: HashMap<ObjectName, F>,
    gone: HashSet<String>,
    gone_in_order: VecDeque<String>,
}

/// The origin of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StateOrigin {
    /// The stream.
    Watch,
    /// A read or write of this process's own.
    Own,
}

// === impl ObjectTable ===

impl<F> Default for ObjectTable<F> {
    fn default() -> Self {
        Self { all: HashMap::new(), gone: HashSet::new(), gone_in_order: VecDeque::new() }
    }
}

impl<F: TrimmedObject> ObjectTable<F> {
    /// The fact of that name.
    pub(crate) fn get(&self, name: &ObjectName) -> Option<&F> {
        self.all.get(name)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &F> {
        self.all.values()
    }

    /// Whether `new` would be taken over.
    pub(crate) fn is_news(&self, new: &F, origin: StateOrigin) -> bool {
        let meta = new.meta();
        if self.gone.contains(&meta.uid) {
            return false;
        }
        match self.all.get(&meta.key()).map(TrimmedObject::meta) {
            None => true,
            // Without numbers there is no order but the stream's own.
            Some(old) if meta.revision == 0 || old.revision == 0 => origin == StateOrigin::Watch,
            Some(old) => meta.revision > old.revision,
        }
    }

    /// Takes a state over; gives what was there.
    pub(crate) fn put(&mut self, new: F) -> Option<F> {
        let old = self.all.insert(new.meta().key(), new);
        if let Some(old) = &old {
            let replaced =
                self.all.get(&old.meta().key()).is_some_and(|new| new.meta().uid != old.meta().uid);
            if replaced {
                self.bury(old.meta().uid.clone());
            }
        }
        old
    }

    /// The object of that uid is gone, for good; gives what was there.
    pub(crate) fn remove(&mut self, name: &ObjectName, uid: &str) -> Option<F> {
        self.bury(uid.to_owned());
        match self.all.get(name) {
            Some(there) if there.meta().uid == uid => self.all.remove(name),
            // Another one has its name by now.
            _ => None,
        }
    }

    /// The objects missing from a complete list of that revision.
    pub(crate) fn missing(&self, listed: &HashSet<ObjectName>, revision: u64) -> Vec<(ObjectName, String)> {
        let newer = |fact: &F| revision > 0 && fact.meta().revision > revision;
        let gone = self.all.iter().filter(|(name, fact)| !listed.contains(*name) && !newer(fact));
        gone.map(|(name, fact)| (name.clone(), fact.meta().uid.clone())).collect()
    }

    fn bury(&mut self, uid: String) {
        if !uid.is_empty() && self.gone.insert(uid.clone()) {
            self.gone_in_order.push_back(uid);
        }
        if self.gone_in_order.len() > MAX_REMEMBERED
            && let Some(oldest) = self.gone_in_order.pop_front()
        {
            self.gone.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{Meta, Service};

    fn service(uid: &str, revision: u64) -> Service {
        let meta = Meta { namespace: "shop".into(), name: "web".into(), uid: uid.to_owned(), revision };
        Service { meta, ..Service::default() }
    }

    fn observe(table: &mut ObjectTable<Service>, uid: &str, revision: u64, origin: StateOrigin) -> bool {
        let new = service(uid, revision);
        let news = table.is_news(&new, origin);
        if news {
            table.put(new);
        }
        news
    }

    #[test]
    fn an_older_state_never_comes_after_a_newer_one() {
        let mut table = ObjectTable::default();
        assert!(observe(&mut table, "a", 5, StateOrigin::Watch));
        assert!(observe(&mut table, "a", 9, StateOrigin::Own), "its own write");
        for behind in [5, 7, 9] {
            assert!(!observe(&mut table, "a", behind, StateOrigin::Watch), "{behind}");
        }
        assert!(observe(&mut table, "a", 10, StateOrigin::Watch));
    }

    #[test]
    fn what_is_gone_stays_gone_and_another_of_its_name_is_another() {
        let mut table = ObjectTable::default();
        assert!(observe(&mut table, "a", 5, StateOrigin::Watch));
        let name = service("a", 0).meta.key();
        assert!(table.remove(&name, "a").is_some());
        assert!(!observe(&mut table, "a", 6, StateOrigin::Own), "a read that was answered before");
        assert!(observe(&mut table, "b", 8, StateOrigin::Watch));
        assert!(table.remove(&name, "a").is_none(), "a late deletion of the first one");
        assert!(observe(&mut table, "c", 9, StateOrigin::Own));
        assert!(!observe(&mut table, "b", 10, StateOrigin::Watch), "it was replaced");
    }

    #[test]
    fn a_list_tells_what_is_gone_but_not_of_what_is_newer_than_itself() {
        let mut table = ObjectTable::default();
        assert!(observe(&mut table, "a", 5, StateOrigin::Own));
        assert_eq!(table.missing(&HashSet::new(), 4), []);
        assert_eq!(table.missing(&HashSet::new(), 5).len(), 1);
        assert_eq!(table.missing(&HashSet::from([service("a", 0).meta.key()]), 9), []);
    }

    #[test]
    fn without_numbers_only_the_stream_counts() {
        let mut table = ObjectTable::default();
        assert!(observe(&mut table, "a", 0, StateOrigin::Watch));
        assert!(!observe(&mut table, "a", 0, StateOrigin::Own));
        assert!(observe(&mut table, "a", 0, StateOrigin::Watch));
    }
}
