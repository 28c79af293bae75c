//! Pods by workload, and which of them may be from before the workload was scaled to zero.
//!
//! A workload and its pods come by two streams, and nothing orders the two: right after a wake this process may still
//! take a pod for alive that the sleep before it has ended. Sending a request there would lose it. So a pod that was
//! seen alive while its workload was seen at zero is *suspected*, and no endpoint, until it has been read once more
//! after the workload was seen above zero: a wake is only written when no pod from before it is alive, so whatever is
//! alive in such a read is from after it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use scaler_types::ResourceId;

use super::{
    labels::SelectorIndex,
    table::{ObjectTable, StateOrigin},
};
use crate::objects::{ObjectName, PodObject, TrimmedObject as _, Workload};

/// Pods by workload.
#[derive(Debug, Default)]
pub(crate) struct Pods {
    table: ObjectTable<PodObject>,
    /// Workloads, by their selectors.
    by: SelectorIndex<ResourceId>,
    of: HashMap<ResourceId, BTreeSet<ObjectName>>,
    owners: HashMap<ObjectName, BTreeSet<ResourceId>>,
    suspects: HashMap<ResourceId, Suspects>,
    /// Workloads above zero with suspects to be read.
    open: BTreeSet<ResourceId>,
}

/// Pods of one workload that may be from before a sleep.
#[derive(Debug, Default)]
struct Suspects {
    /// Grows whenever the workload is seen at zero: earlier reads are not valid after it.
    sleeps: u64,
    pods: BTreeMap<String, ObjectName>,
}

/// Pods to be read once more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnverifiedPods {
    pub(crate) id: ResourceId,
    /// As of which sleep.
    pub(crate) sleeps: u64,
    /// Which: uid and name.
    pub(crate) pods: Vec<(String, ObjectName)>,
}

// === impl Pods ===

impl Pods {
    pub(crate) fn table(&self) -> &ObjectTable<PodObject> {
        &self.table
    }

    /// A workload's pods.
    pub(crate) fn pods_of<'a>(&'a self, id: &ResourceId) -> impl Iterator<Item = &'a PodObject> + Clone {
        let names = self.of.get(id);
        names.into_iter().flatten().filter_map(|name| self.table.get(name))
    }

    /// Whether a pod may be from before the last sleep of its workload.
    pub(crate) fn is_suspected(&self, id: &ResourceId, pod: &PodObject) -> bool {
        self.suspects.get(id).is_some_and(|suspects| suspects.pods.contains_key(&pod.meta.uid))
    }

    /// A state of a pod; gives its name and its workloads, also former ones, unless it is not newer.
    pub(crate) fn put(
        &mut self,
        mut pod: PodObject,
        origin: StateOrigin,
        belongs: impl Fn(&ResourceId, &PodObject) -> bool,
    ) -> Option<(ObjectName, BTreeSet<ResourceId>)> {
        if !self.table.is_news(&pod, origin) {
            return None;
        }
        let name = pod.meta.key();
        let old = self.table.get(&name).filter(|old| old.meta.uid == pod.meta.uid);
        pod.was_ready |= old.is_some_and(|old| old.was_ready);
        let candidates = self.by.candidates(&name.0, &pod.labels);
        let owners: BTreeSet<_> = candidates.into_iter().filter(|id| belongs(id, &pod)).cloned().collect();
        let before = self.owners.insert(name.clone(), owners.clone()).unwrap_or_default();
        for gone in before.difference(&owners) {
            if let Some(all) = self.of.get_mut(gone) {
                all.remove(&name);
            }
        }
        for id in &owners {
            self.of.entry(id.clone()).or_default().insert(name.clone());
        }
        if let Some(replaced) = self.table.put(pod) {
            self.clear_replaced(&before, &replaced, &name);
        }
        Some((name, &owners | &before))
    }

    /// A pod is gone; gives its workloads.
    pub(crate) fn remove(&mut self, name: &ObjectName, uid: &str) -> BTreeSet<ResourceId> {
        if self.table.remove(name, uid).is_none() {
            return BTreeSet::new();
        }
        let owners = self.owners.remove(name).unwrap_or_default();
        for id in &owners {
            if let Some(all) = self.of.get_mut(id) {
                all.remove(name);
            }
            if let Some(suspects) = self.suspects.get_mut(id) {
                suspects.pods.remove(uid);
            }
        }
        owners
    }

    /// A workload is about to be seen as `new`.
    pub(crate) fn observe_workload(&mut self, id: &ResourceId, old: Option<&Workload>, new: &Workload) {
        let same = old.is_some_and(|old| old.selector == new.selector && old.meta.uid == new.meta.uid);
        if !same {
            self.by.put(id.clone(), &new.meta.namespace, &new.selector.equal);
            let mut names = self.of.remove(id).unwrap_or_default();
            for name in &names {
                if let Some(owners) = self.owners.get_mut(name) {
                    owners.remove(id);
                }
            }
            let its = |pod: &&PodObject| {
                pod.meta.namespace == new.meta.namespace && new.selector.matches(&pod.labels)
            };
            names = self.table.all().filter(its).map(|pod| pod.meta.key()).collect();
            for name in &names {
                self.owners.entry(name.clone()).or_default().insert(id.clone());
            }
            self.of.insert(id.clone(), names);
        }
        // A sleep and a wake between two looks.
        let missed = old.is_some_and(|old| old.stored.sleeps != new.stored.sleeps && new.stored.sleeps > 0);
        if new.replicas == 0 || missed {
            self.suspects.entry(id.clone()).or_default().sleeps += 1;
            let names: Vec<_> = self.pods_of(id).map(|pod| pod.meta.key()).collect();
            for name in names {
                self.suspect(id, &name);
            }
        }
        if new.replicas > 0 && self.suspects.get(id).is_some_and(|suspects| !suspects.pods.is_empty()) {
            self.open.insert(id.clone());
        }
    }

    /// A pod was seen while its workload is at zero.
    pub(crate) fn suspect(&mut self, id: &ResourceId, name: &ObjectName) {
        if let Some(pod) = self.table.get(name).filter(|pod| pod.alive()) {
            let uid = pod.meta.uid.clone();
            self.suspects.entry(id.clone()).or_default().pods.insert(uid, name.clone());
        }
    }

    /// Takes the next workload with suspects to be read.
    pub(crate) fn next_unverified(&mut self) -> Option<UnverifiedPods> {
        while let Some(id) = self.open.pop_first() {
            if let Some(suspects) = self.suspects.get(&id).filter(|suspects| !suspects.pods.is_empty()) {
                let pods = suspects.pods.iter().map(|(uid, name)| (uid.clone(), name.clone())).collect();
                return Some(UnverifiedPods { sleeps: suspects.sleeps, id, pods });
            }
        }
        None
    }

    /// The suspects were read, and what was read was taken over: a pod that is still there is not from before that.
    pub(crate) fn mark_verified(&mut self, unverified: &UnverifiedPods) {
        if let Some(suspects) =
            self.suspects.get_mut(&unverified.id).filter(|one| one.sleeps == unverified.sleeps)
        {
            for (uid, _) in &unverified.pods {
                suspects.pods.remove(uid);
            }
        }
    }

    /// They could not be read: once more.
    pub(crate) fn retry_unverified(&mut self, unverified: UnverifiedPods) {
        self.open.insert(unverified.id);
    }

    /// A workload is gone.
    pub(crate) fn forget_workload(&mut self, id: &ResourceId) {
        self.by.remove(id);
        self.suspects.remove(id);
        self.open.remove(id);
        for name in self.of.remove(id).unwrap_or_default() {
            if let Some(owners) = self.owners.get_mut(&name) {
                owners.remove(id);
            }
        }
    }

    /// Another pod has taken its name: what is gone needs no suspicion.
    fn clear_replaced(&mut self, owners: &BTreeSet<ResourceId>, replaced: &PodObject, name: &ObjectName) {
        let same = self.table.get(name).is_some_and(|now| now.meta().uid == replaced.meta.uid);
        if same {
            return;
        }
        for id in owners {
            if let Some(suspects) = self.suspects.get_mut(id) {
                suspects.pods.remove(&replaced.meta.uid);
            }
        }
    }
}
