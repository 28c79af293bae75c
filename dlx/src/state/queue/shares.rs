//! Shares the total limit between namespaces: one tenant must not use it up for the others.
//!
//! A namespace may hold as much as is still free. So a single one gets half at most, two of them a third each, and the
//! next one finds room. A DLX that knows only one namespace gives it everything.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize},
    },
};

/// The requests held for the resources of one namespace. Each of them keeps it.
#[derive(Debug)]
pub(crate) struct NamespaceShare {
    pub(super) namespace: String,
    pub(super) requests: AtomicUsize,
    pub(super) bytes: AtomicU64,
    shares: Arc<NamespaceShares>,
}

/// The namespaces that this DLX knows.
#[derive(Debug, Default)]
pub(super) struct NamespaceShares(Mutex<HashMap<String, Weak<NamespaceShare>>>);

/// Which limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// The total.
    All,
    /// The namespace's share.
    Share,
}

/// Whether `more` fits into `limit`, of which `all` are taken, `own` of them by the same namespace. `several`: other
/// namespaces exist.
pub(super) fn fits(limit: u64, all: u64, own: u64, more: u64, several: bool) -> Result<(), Full> {
    let free = limit.saturating_sub(all);
    if more > free {
        return Err(Full::All);
    }
    if several && own.saturating_add(more) > free {
        return Err(Full::Share);
    }
    Ok(())
}

// === impl NamespaceShares ===

impl NamespaceShares {
    /// The share of a namespace.
    pub(super) fn for_namespace(self: &Arc<Self>, namespace: &str) -> Arc<NamespaceShare> {
        let mut shares = self.lock();
        if let Some(share) = shares.get(namespace).and_then(Weak::upgrade) {
            return share;
        }
        let share = Arc::new(NamespaceShare {
            namespace: namespace.to_owned(),
            requests: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
            shares: self.clone(),
        });
        shares.insert(namespace.to_owned(), Arc::downgrade(&share));
        share
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Weak<NamespaceShare>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl NamespaceShare ===

impl NamespaceShare {
    /// The namespace.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Whether this DLX knows other namespaces, too.
    pub(super) fn has_others(&self) -> bool {
        self.shares.lock().len() > 1
    }
}

impl Drop for NamespaceShare {
    fn drop(&mut self) {
        let mut shares = self.shares.lock();
        // A new share may be in its place by now.
        if shares.get(&self.namespace).is_some_and(|share| share.strong_count() == 0) {
            shares.remove(&self.namespace);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How much each namespace has when all take as much as they can get, one after another.
    fn greedy(limit: u64, namespaces: usize) -> Vec<u64> {
        let mut own = vec![0; namespaces];
        loop {
            let before = own.clone();
            for namespace in 0..namespaces {
                let all = own.iter().sum();
                if fits(limit, all, own[namespace], 1, true).is_ok() {
                    own[namespace] += 1;
                }
            }
            if own == before {
                return own;
            }
        }
    }

    #[test]
    fn each_has_as_much_as_is_free_and_the_next_one_finds_room() {
        assert_eq!(greedy(1200, 1), [600]);
        assert_eq!(greedy(1200, 2), [400, 400]);
        assert_eq!(greedy(1200, 5), [200; 5]);
        // One had everything it could get before the other came.
        assert_eq!(fits(1200, 600, 0, 300, true), Ok(()));
        assert_eq!(fits(1200, 600, 600, 1, true), Err(Full::Share));
    }

    #[test]
    fn a_single_namespace_has_everything_and_none_exceeds_the_total() {
        assert_eq!(fits(10, 9, 9, 1, false), Ok(()));
        assert_eq!(fits(10, 10, 10, 1, false), Err(Full::All));
        assert_eq!(fits(10, 10, 0, 1, true), Err(Full::All));
        assert_eq!(fits(10, 0, 0, u64::MAX, true), Err(Full::All));
        assert_eq!(fits(10, u64::MAX, 0, 1, true), Err(Full::All));
    }

    #[test]
    fn a_namespace_counts_as_long_as_it_has_a_resource() {
        let shares = Arc::new(NamespaceShares::default());
        let first = shares.for_namespace("a");
        assert!(!first.has_others());
        let second = shares.for_namespace("b");
        assert!(Arc::ptr_eq(&second, &shares.for_namespace("b")));
        assert!(first.has_others() && second.has_others());
        drop(second);
        assert!(!first.has_others());
    }
}
