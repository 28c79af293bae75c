//! All resources that this DLX knows, and the owners of hosts and ports.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::{Notify, futures::Notified};

use super::{Claim, Conflict, HostTable, NameHeader, ResourceHandle, ResourceKey};
use crate::clock;

/// All resources, by kind, namespace and name.
#[derive(Debug, Default)]
pub(crate) struct Resources {
    entries: Mutex<HashMap<ResourceKey, Arc<ResourceHandle>>>,
    /// When a resource with activity was last forgotten: milliseconds of [`clock::now_ms`], plus one; 0 is never.
    forgotten: AtomicU64,
    table: ArcSwap<HostTable>,
    /// Notified when the table was replaced.
    replaced: Notify,
    /// Held while a table is made, so that a table stored later was made from newer data.
    rebuilding: Mutex<()>,
    listings: AtomicU64,
}

// === impl Resources ===

impl Resources {
    /// The resource, if it is known.
    pub(crate) fn get(&self, key: &ResourceKey) -> Option<Arc<ResourceHandle>> {
        self.lock().get(key).cloned()
    }

    /// The resource, created if it is not known; whether it was created.
    pub(crate) fn get_or(
        &self,
        key: &ResourceKey,
        make: impl FnOnce() -> ResourceHandle,
    ) -> (Arc<ResourceHandle>, bool) {
        let mut entries = self.lock();
        if let Some(resource) = entries.get(key) {
            return (resource.clone(), false);
        }
        let mut resource = make();
        resource.counted_since_start = self.forgotten().is_none();
        let resource = Arc::new(resource);
        entries.insert(key.clone(), resource.clone());
        (resource, true)
    }

    /// Forgets a resource.
    pub(crate) fn remove(&self, key: &ResourceKey) -> Option<Arc<ResourceHandle>> {
        let mut entries = self.lock();
        let resource = entries.remove(key)?;
        if resource.counts.idle().is_some() || !resource.counted_since_start {
            self.forgotten.store(clock::now_ms() + 1, Ordering::Relaxed);
        }
        Some(resource)
    }

    /// How long ago a resource with activity was last forgotten; `None`: never.
    pub(crate) fn forgotten(&self) -> Option<Duration> {
        self.forgotten.load(Ordering::Relaxed).checked_sub(1).map(clock::since)
    }

    /// All resources, the first seen in front.
    pub(crate) fn all(&self) -> Vec<Arc<ResourceHandle>> {
        let mut all: Vec<_> = self.lock().values().cloned().collect();
        all.sort_by(|a, b| {
            (a.first_seen, &a.key.id, &a.key.kind).cmp(&(b.first_seen, &b.key.id, &b.key.kind))
        });
        all
    }

    /// The number of the next listing.
    pub(crate) fn next_listing(&self) -> u64 {
        self.listings.fetch_add(1, Ordering::Relaxed)
    }

    /// The owners of hosts and ports.
    pub(crate) fn table(&self) -> Guard<Arc<HostTable>> {
        self.table.load()
    }

    /// Notified when the table was replaced.
    pub(crate) fn replaced(&self) -> Notified<'_> {
        self.replaced.notified()
    }

    /// Rebuilds the table from what the resources are now. `headers`, which name resources, are read under the lock like
    /// the resources, so that a table stored later was made from newer data.
    pub(crate) fn rebuild_table(&self, headers: impl FnOnce() -> Vec<NameHeader>) {
        let _one_at_a_time = self.rebuilding.lock().unwrap_or_else(PoisonError::into_inner);
        let table = HostTable::new(&self.all(), headers());
        let before = self.table.load();
        let known: HashSet<_> =
            before.conflicts.iter().map(|conflict| (&conflict.claim, &conflict.wants)).collect();
        for Conflict { claim, has, wants } in &table.conflicts {
            if known.contains(&(claim, wants)) {
                continue;
            }
            match claim {
                Claim::Host(host) => {
                    tracing::warn!(%host, %has, %wants, "ignored a claim to a host that belongs to another resource");
                }
                Claim::Port(port) => {
                    tracing::warn!(port, %has, %wants, "ignored a claim to a port that belongs to another resource");
                }
            }
        }
        drop(before);
        self.table.store(Arc::new(table));
        self.replaced.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ResourceKey, Arc<ResourceHandle>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
