//! The state of intercepted Services.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Instant,
};

use scaler_types::{Dlx, ResourceId, Role};

use super::{State, StateOrigin};
use crate::{
    index::{
        key_policy::KeyPolicy, quarantine::PortQuarantine, selector_conflicts::SelectorConflicts,
        table::ObjectTable,
    },
    objects::{IpFamily, Labels, ObjectName, Policy, PortRegistry, Service, Slice, Workload},
};

/// This process's own monotonic clock.
pub(crate) type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// The state of intercepted Services.
pub(crate) struct InterceptionState {
    /// How late it is.
    pub(crate) clock: Clock,
    /// The DLXs that take requests, as last reported to this process; empty: not yet.
    pub(crate) dlxs: Vec<Dlx>,
    /// Services whose key other writers remove.
    pub(crate) selector_conflicts: SelectorConflicts,
    /// Whether an admission policy keeps the key.
    pub(crate) key_policy: KeyPolicy,
    /// Freed ports.
    pub(crate) quarantine: PortQuarantine,
    pub(super) slices: ObjectTable<Slice>,
    slices_of: Beside,
    pub(super) policies: ObjectTable<Policy>,
    policies_in: HashMap<Arc<str>, BTreeSet<ObjectName>>,
    pub(super) registry: ObjectTable<PortRegistry>,
    /// Since when all new connections to a workload go to the DLXs.
    intercepted_since: HashMap<ResourceId, Instant>,
}

/// The objects that belong to a Service, by its name.
type Beside = HashMap<ObjectName, BTreeSet<ObjectName>>;

// === impl InterceptionState ===

impl InterceptionState {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            dlxs: Vec::new(),
            selector_conflicts: SelectorConflicts::default(),
            key_policy: KeyPolicy::default(),
            quarantine: PortQuarantine::default(),
            slices: ObjectTable::default(),
            slices_of: HashMap::new(),
            policies: ObjectTable::default(),
            policies_in: HashMap::new(),
            registry: ObjectTable::default(),
            intercepted_since: HashMap::new(),
        }
    }

    /// How late it is.
    pub(crate) fn now(&self) -> Instant {
        (self.clock)()
    }

    /// The registry of ports; `None`: there is none.
    pub(crate) fn registry(&self) -> Option<&PortRegistry> {
        self.registry.all().next()
    }

    /// A Service's slices, ours and others'.
    pub(crate) fn slices_of<'a>(
        &'a self,
        service: &ObjectName,
    ) -> impl Iterator<Item = &'a Slice> + Clone + use<'a> {
        let names = self.slices_of.get(service).into_iter().flatten();
        names.filter_map(|name| self.slices.get(name))
    }

    /// All slices of ours.
    pub(crate) fn our_slices(&self) -> impl Iterator<Item = &Slice> {
        self.slices.all().filter(|slice| slice.ours.is_some())
    }

    pub(crate) fn slice(&self, name: &ObjectName) -> Option<&Slice> {
        self.slices.get(name)
    }

    /// The NetworkPolicies that restrict connections to pods with these labels.
    pub(crate) fn guards<'a>(
        &'a self,
        namespace: &Arc<str>,
        labels: &'a Labels,
    ) -> impl Iterator<Item = &'a Policy> {
        let names = self.policies_in.get(namespace).into_iter().flatten();
        names.filter_map(|name| self.policies.get(name)).filter(|policy| policy.guards(labels))
    }

    /// Since when every new connection for a workload certainly goes to a DLX, as far as this process saw.
    pub(crate) fn intercepted_since(&self, id: &ResourceId) -> Option<Instant> {
        self.intercepted_since.get(id).copied()
    }

    /// Whether all new connections to the Service go to DLXs: Scaler's key is there, and nothing is left of its own endpoints.
    pub(crate) fn is_intercepted(&self, service: &Service) -> bool {
        let slices = self.slices_of(&service.meta.key());
        service.intercepted
            && slices.clone().any(|slice| slice.ours.is_some() && slice.filled)
            && !slices.clone().any(|slice| slice.ours.is_none() && slice.filled)
    }

    /// Whether an endpoint of the Service's own is ready.
    pub(crate) fn is_ready(&self, service: &Service) -> bool {
        self.slices_of(&service.meta.key()).any(|slice| slice.ours.is_none() && slice.ready)
    }
}

impl State {
    /// The Services that select a workload's pods and can be intercepted.
    pub(crate) fn ordinary_services_of(&self, workload: &Workload) -> Vec<&Service> {
        let mut services = self.services_of(workload);
        services.retain(|service| service.is_ordinary());
        services
    }

    pub(crate) fn service(&self, name: &ObjectName) -> Option<&Service> {
        self.services.get(name)
    }

    pub(crate) fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.all()
    }

    /// The workloads whose pods a Service selects, Scaler's key aside, those that are being deleted left out.
    pub(crate) fn workloads_of(&self, service: &Service) -> Vec<ResourceId> {
        let mut all = self.labelled.with(&service.meta.namespace, &service.selector);
        all.retain(|id| self.workload(id).is_some_and(|workload| !workload.deleting));
        all
    }

    /// Whether a workload is listed, and its Services are to be intercepted.
    pub(crate) fn wants_interception(&self, id: &ResourceId) -> bool {
        self.listed.get(id).is_some_and(|listed| listed.wants_interception())
    }

    /// The Services that are to be intercepted always, and can be.
    pub(crate) fn to_be_intercepted(&self) -> impl Iterator<Item = &Service> {
        let listed = self.listed.iter().filter(|(_, listed)| listed.is_to_be_intercepted());
        let workloads = listed.filter_map(|(id, _)| self.workload(id));
        workloads.flat_map(|workload| self.ordinary_services_of(workload))
    }

    /// Whether a workload is listed.
    pub(crate) fn is_listed(&self, id: &ResourceId) -> bool {
        self.listed.contains_key(id)
    }

    /// These DLXs take requests now.
    pub(crate) fn set_dlxs(&mut self, dlxs: &[Dlx]) {
        if self.interception.dlxs == dlxs {
            return;
        }
        let reached = |dlxs: &[Dlx]| {
            let by = |family: IpFamily| dlxs.iter().flat_map(|dlx| &dlx.addresses).any(|ip| family.has(ip));
            IpFamily::ALL.map(by)
        };
        let differs = reached(&self.interception.dlxs) != reached(dlxs);
        self.interception.dlxs = dlxs.to_vec();
        if differs {
            // Other resources may be refused for that now.
            let asking = self.listed.iter().filter(|(_, listed)| listed.wants_interception());
            for id in asking.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
                self.touch(&id);
            }
        }
        let services: BTreeSet<ObjectName> =
            self.interception.our_slices().map(Slice::service_name).collect();
        for service in services {
            self.touch_service(&service);
        }
    }

    /// The API server answered whether the policy of the selector key is in force; whether that is news.
    pub(crate) fn set_key_policy(&mut self, in_force: bool) -> bool {
        let now = self.interception.now();
        if !self.interception.key_policy.set(in_force, now) {
            return false;
        }
        if in_force {
            // What others did before it they cannot do any more.
            self.interception.selector_conflicts.forget_losses();
        }
        let asking = self.listed.iter().filter(|(_, listed)| listed.wants_interception());
        for id in asking.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.touch(&id);
        }
        true
    }

    /// Ends the suspensions whose time is over.
    pub(crate) fn resume_suspended(&mut self) {
        let now = self.interception.now();
        let over: BTreeSet<String> = self.interception.selector_conflicts.expire(now).into_iter().collect();
        let names: Vec<ObjectName> = self
            .services
            .all()
            .filter(|service| over.contains(&service.meta.uid))
            .map(|service| service.meta.key())
            .collect();
        for name in names {
            self.touch_service(&name);
        }
    }

    /// A watch of these was cut, and what happened meanwhile is not known: the times since when workloads are intercepted start anew.
    pub(crate) fn reset_intercepted_since(&mut self) {
        let ids: Vec<_> = self.interception.intercepted_since.drain().map(|(id, _)| id).collect();
        for id in ids {
            self.touch(&id);
        }
    }

    /// Whether all new connections to a resource still go to the DLXs.
    ///
    /// At every change and not at every read: an interruption between two reads counts.
    pub(super) fn track_interception(&mut self, id: &ResourceId) {
        // A DLX does not see a Service's other endpoints.
        if self.config.service_ports.is_none() || self.config.role == Role::Dlx {
            return;
        }
        let intercepted = self.workload(id).is_some_and(|workload| {
            let services = self.ordinary_services_of(workload);
            !services.is_empty() && services.iter().all(|service| self.interception.is_intercepted(service))
        });
        if intercepted {
            let now = self.interception.now();
            self.interception.intercepted_since.entry(id.clone()).or_insert(now);
        } else {
            self.interception.intercepted_since.remove(id);
        }
    }

    pub(super) fn apply_slice(&mut self, slice: Slice, origin: StateOrigin) {
        if !self.interception.slices.is_news(&slice, origin) {
            return;
        }
        let (name, service) = (slice.meta.key(), slice.service_name());
        let before = self
            .interception
            .slices
            .put(slice)
            .map(|old| old.service_name())
            .filter(|before| *before != service);
        if let Some(before) = before {
            unlink(&mut self.interception.slices_of, &before, &name);
            self.touch_service(&before);
        }
        self.interception.slices_of.entry(service.clone()).or_default().insert(name);
        self.touch_service(&service);
    }

    pub(super) fn remove_slice(&mut self, name: &ObjectName, uid: &str) {
        if let Some(gone) = self.interception.slices.remove(name, uid) {
            unlink(&mut self.interception.slices_of, &gone.service_name(), name);
            self.touch_service(&gone.service_name());
        }
    }

    pub(super) fn apply_policy(&mut self, policy: Policy, origin: StateOrigin) {
        if self.interception.policies.is_news(&policy, origin) {
            let name = policy.meta.key();
            self.interception.policies.put(policy);
            self.interception.policies_in.entry(name.0.clone()).or_default().insert(name.clone());
            self.touch_namespace(&name.0);
        }
    }

    pub(super) fn remove_policy(&mut self, name: &ObjectName, uid: &str) {
        if self.interception.policies.remove(name, uid).is_some() {
            if let Some(all) = self.interception.policies_in.get_mut(&name.0) {
                all.remove(name);
            }
            self.touch_namespace(&name.0);
        }
    }

    pub(super) fn apply_registry(&mut self, registry: PortRegistry, origin: StateOrigin) {
        if self.interception.registry.is_news(&registry, origin) {
            let now = self.interception.now();
            self.interception.quarantine.follow(&registry, now);
            let old = self.interception.registry.put(registry);
            self.registry_changed(old.as_ref());
        }
    }

    pub(super) fn remove_registry(&mut self, name: &ObjectName, uid: &str) {
        if let Some(old) = self.interception.registry.remove(name, uid) {
            self.registry_changed(Some(&old));
        }
    }

    /// Those whose ports are others now, and those for whom there was none.
    fn registry_changed(&mut self, old: Option<&PortRegistry>) {
        let none = PortRegistry::default();
        let (old, new) = (old.unwrap_or(&none), self.interception.registry().unwrap_or(&none));
        let differs = |port: &u16| old.get(*port) != new.get(*port);
        let changed = old.entries().chain(new.entries()).filter(|(port, _)| differs(port));
        let mut services: BTreeSet<ObjectName> = changed
            .map(|(_, entry)| (entry.holder.namespace.as_str().into(), entry.holder.service.as_str().into()))
            .collect();
        // And those whose slices name one that is another's now, or was.
        let named = self
            .interception
            .our_slices()
            .filter(|slice| slice.ours.as_ref().is_some_and(|ours| ours.ports.values().any(differs)));
        services.extend(named.map(Slice::service_name));
        for service in services {
            self.touch_service(&service);
        }
        let short: Vec<_> =
            self.listed.iter().filter(|(_, listed)| listed.lacks_ports()).map(|(id, _)| id.clone()).collect();
        for id in short {
            self.touch(&id);
        }
    }

    /// A Service was seen as `new`: counts if another writer removed Scaler's key.
    pub(super) fn observe_service(&mut self, old: Option<&Service>, new: Option<&Service>) {
        let Some(old) = old else { return };
        match new.filter(|new| new.meta.uid == old.meta.uid) {
            Some(new) if old.intercepted && !new.intercepted => {
                let now = self.interception.now();
                if self.interception.selector_conflicts.record_loss(&new.meta.uid, now) {
                    self.interception.key_policy.doubt();
                }
            }
            Some(_) => {}
            None => self.interception.selector_conflicts.remove(&old.meta.uid),
        }
    }

    /// The pods of a workload are labelled otherwise: its Services may now be over several workloads, or no longer.
    pub(super) fn touch_sharing(&mut self, workload: &Workload) {
        if self.config.service_ports.is_some() {
            let services = self.services_of(workload).into_iter();
            let labels: Vec<Labels> = services.map(|service| service.selector.clone()).collect();
            for labels in labels {
                self.touch_labelled(&workload.meta.namespace, &labels);
            }
        }
    }

    fn touch_service(&mut self, name: &ObjectName) {
        if let Some(labels) = self.services.get(name).map(|service| service.selector.clone()) {
            self.touch_labelled(&name.0, &labels);
        }
    }
}

fn unlink(all: &mut Beside, service: &ObjectName, name: &ObjectName) {
    if let Some(there) = all.get_mut(service) {
        there.remove(name);
        if there.is_empty() {
            all.remove(service);
        }
    }
}
