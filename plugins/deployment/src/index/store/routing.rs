//! What is known of where Services lead.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Instant,
};

use scaler_types::{Dlx, ResourceId, Role};

use super::{State, Teller};
use crate::{
    index::{quarantine::Quarantine, selector_conflicts::Taken, table::Table},
    objects::{Family, Labels, Name, Policy, Registry, Service, Slice, Workload},
};

/// What says how late it is on this process's own clock, which never goes back.
pub type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// What is known of where Services lead.
pub struct Routing {
    /// How late it is.
    pub clock: Clock,
    /// The DLXs that take requests, as this process was told last; empty: it was not.
    pub dlxs: Vec<Dlx>,
    /// Whose key is taken away again and again.
    pub taken: Taken,
    /// Ports that were given back.
    pub quarantine: Quarantine,
    pub(super) slices: Table<Slice>,
    slices_of: Beside,
    pub(super) policies: Table<Policy>,
    policies_in: HashMap<Arc<str>, BTreeSet<Name>>,
    pub(super) registry: Table<Registry>,
    /// Since when all that is new for a workload goes to the DLXs.
    led: HashMap<ResourceId, Instant>,
}

/// What belongs to a Service, by that.
type Beside = HashMap<Name, BTreeSet<Name>>;

// === impl Routing ===

impl Routing {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            dlxs: Vec::new(),
            taken: Taken::default(),
            quarantine: Quarantine::default(),
            slices: Table::default(),
            slices_of: HashMap::new(),
            policies: Table::default(),
            policies_in: HashMap::new(),
            registry: Table::default(),
            led: HashMap::new(),
        }
    }

    /// How late it is.
    pub fn now(&self) -> Instant {
        (self.clock)()
    }

    /// The registry of ports; `None`: there is none.
    pub fn registry(&self) -> Option<&Registry> {
        self.registry.all().next()
    }

    /// A Service's slices, ours and others'.
    pub fn slices_of<'a>(&'a self, service: &Name) -> impl Iterator<Item = &'a Slice> + Clone + use<'a> {
        let names = self.slices_of.get(service).into_iter().flatten();
        names.filter_map(|name| self.slices.get(name))
    }

    /// All slices of ours.
    pub fn our_slices(&self) -> impl Iterator<Item = &Slice> {
        self.slices.all().filter(|slice| slice.ours.is_some())
    }

    /// A slice by its name.
    pub fn slice(&self, name: &Name) -> Option<&Slice> {
        self.slices.get(name)
    }

    /// What says who may connect to pods with these labels.
    pub fn guards<'a>(
        &'a self,
        namespace: &Arc<str>,
        labels: &'a Labels,
    ) -> impl Iterator<Item = &'a Policy> {
        let names = self.policies_in.get(namespace).into_iter().flatten();
        names.filter_map(|name| self.policies.get(name)).filter(|policy| policy.guards(labels))
    }

    /// Since when every new connection for a workload certainly goes to a DLX, as far as this process saw.
    pub fn led_since(&self, id: &ResourceId) -> Option<Instant> {
        self.led.get(id).copied()
    }

    /// Whether all that is new for the Service goes to DLXs: our key is there, and nothing is left of its own endpoints.
    pub fn is_led(&self, service: &Service) -> bool {
        let slices = self.slices_of(&service.meta.key());
        service.fenced
            && slices.clone().any(|slice| slice.ours.is_some() && slice.filled)
            && !slices.clone().any(|slice| slice.ours.is_none() && slice.filled)
    }

    /// Whether an endpoint of the Service's own is ready.
    pub fn is_ready(&self, service: &Service) -> bool {
        self.slices_of(&service.meta.key()).any(|slice| slice.ours.is_none() && slice.ready)
    }
}

impl State {
    /// The Services that lead to a workload's pods and can be led.
    pub fn ordinary_services_of(&self, workload: &Workload) -> Vec<&Service> {
        let mut services = self.services_of(workload);
        services.retain(|service| service.is_ordinary());
        services
    }

    /// A Service by its name.
    pub fn service(&self, name: &Name) -> Option<&Service> {
        self.services.get(name)
    }

    /// All Services.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.all()
    }

    /// The workloads whose pods a Service selects by its owners' keys, those that are being deleted left out.
    pub fn workloads_of(&self, service: &Service) -> Vec<ResourceId> {
        let mut all = self.labelled.with(&service.meta.namespace, &service.selector);
        all.retain(|id| self.workload(id).is_some_and(|workload| !workload.deleting));
        all
    }

    /// Whether a workload is one that the daemons are told of, and asks for a route.
    pub fn asks(&self, id: &ResourceId) -> bool {
        self.listed.get(id).is_some_and(|listed| listed.asks())
    }

    /// The Services that are to lead to the DLXs all the while, and that nothing keeps from it.
    pub fn to_be_led(&self) -> impl Iterator<Item = &Service> {
        let listed = self.listed.iter().filter(|(_, listed)| listed.is_to_be_led());
        let workloads = listed.filter_map(|(id, _)| self.workload(id));
        workloads.flat_map(|workload| self.ordinary_services_of(workload))
    }

    /// Whether a workload is one that the daemons are told of.
    pub fn is_listed(&self, id: &ResourceId) -> bool {
        self.listed.contains_key(id)
    }

    /// These DLXs take requests now.
    pub fn serve(&mut self, dlxs: &[Dlx]) {
        if self.routing.dlxs == dlxs {
            return;
        }
        let reached = |dlxs: &[Dlx]| {
            let by = |family: Family| dlxs.iter().flat_map(|dlx| &dlx.addresses).any(|ip| family.has(ip));
            Family::ALL.map(by)
        };
        let differs = reached(&self.routing.dlxs) != reached(dlxs);
        self.routing.dlxs = dlxs.to_vec();
        if differs {
            // Who is refused for that may be others now.
            let asking = self.listed.iter().filter(|(_, listed)| listed.asks());
            for id in asking.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
                self.touch(&id);
            }
        }
        let services: BTreeSet<Name> = self.routing.our_slices().map(Slice::of).collect();
        for service in services {
            self.touch_service(&service);
        }
    }

    /// What was long ago no longer counts.
    pub fn forgive(&mut self) {
        let now = self.routing.now();
        let over: BTreeSet<String> = self.routing.taken.forget(now).into_iter().collect();
        let names: Vec<Name> = self
            .services
            .all()
            .filter(|service| over.contains(&service.meta.uid))
            .map(|service| service.meta.key())
            .collect();
        for name in names {
            self.touch_service(&name);
        }
    }

    /// A stream of these was cut, and what happened meanwhile is not known: nothing is known to be led since before.
    pub fn missed_something(&mut self) {
        let ids: Vec<_> = self.routing.led.drain().map(|(id, _)| id).collect();
        for id in ids {
            self.touch(&id);
        }
    }

    /// A resource is looked at anew: is all that comes for it still led?
    ///
    /// At every change and not at every look: what was broken and mended between two looks was broken.
    pub(super) fn look_whether_led(&mut self, id: &ResourceId) {
        // A DLX does not see who else takes a Service's requests.
        if self.config.service_ports.is_none() || self.config.role == Role::Dlx {
            return;
        }
        let led = self.workload(id).is_some_and(|workload| {
            let services = self.ordinary_services_of(workload);
            !services.is_empty() && services.iter().all(|service| self.routing.is_led(service))
        });
        if led {
            let now = self.routing.now();
            self.routing.led.entry(id.clone()).or_insert(now);
        } else {
            self.routing.led.remove(id);
        }
    }

    pub(super) fn apply_slice(&mut self, slice: Slice, teller: Teller) {
        if !self.routing.slices.is_news(&slice, teller) {
            return;
        }
        let (name, service) = (slice.meta.key(), slice.of());
        let before = self.routing.slices.put(slice).map(|old| old.of()).filter(|before| *before != service);
        if let Some(before) = before {
            unlink(&mut self.routing.slices_of, &before, &name);
            self.touch_service(&before);
        }
        self.routing.slices_of.entry(service.clone()).or_default().insert(name);
        self.touch_service(&service);
    }

    pub(super) fn remove_slice(&mut self, name: &Name, uid: &str) {
        if let Some(gone) = self.routing.slices.remove(name, uid) {
            unlink(&mut self.routing.slices_of, &gone.of(), name);
            self.touch_service(&gone.of());
        }
    }

    pub(super) fn apply_policy(&mut self, policy: Policy, teller: Teller) {
        if self.routing.policies.is_news(&policy, teller) {
            let name = policy.meta.key();
            self.routing.policies.put(policy);
            self.routing.policies_in.entry(name.0.clone()).or_default().insert(name.clone());
            self.touch_namespace(&name.0);
        }
    }

    pub(super) fn remove_policy(&mut self, name: &Name, uid: &str) {
        if self.routing.policies.remove(name, uid).is_some() {
            if let Some(all) = self.routing.policies_in.get_mut(&name.0) {
                all.remove(name);
            }
            self.touch_namespace(&name.0);
        }
    }

    pub(super) fn apply_registry(&mut self, registry: Registry, teller: Teller) {
        if self.routing.registry.is_news(&registry, teller) {
            let now = self.routing.now();
            self.routing.quarantine.follow(&registry, now);
            let old = self.routing.registry.put(registry);
            self.registry_changed(old.as_ref());
        }
    }

    pub(super) fn remove_registry(&mut self, name: &Name, uid: &str) {
        if let Some(old) = self.routing.registry.remove(name, uid) {
            self.registry_changed(Some(&old));
        }
    }

    /// Those whose ports are others now, and those for whom there was none.
    fn registry_changed(&mut self, old: Option<&Registry>) {
        let none = Registry::default();
        let (old, new) = (old.unwrap_or(&none), self.routing.registry().unwrap_or(&none));
        let differs = |port: &u16| old.get(*port) != new.get(*port);
        let changed = old.entries().chain(new.entries()).filter(|(port, _)| differs(port));
        let mut services: BTreeSet<Name> = changed
            .map(|(_, entry)| (entry.holder.namespace.as_str().into(), entry.holder.service.as_str().into()))
            .collect();
        // And those whose slices name one that is another's now, or was.
        let named = self
            .routing
            .our_slices()
            .filter(|slice| slice.ours.as_ref().is_some_and(|ours| ours.ports.values().any(differs)));
        services.extend(named.map(Slice::of));
        for service in services {
            self.touch_service(&service);
        }
        let short: Vec<_> = self
            .listed
            .iter()
            .filter(|(_, listed)| listed.is_short_of_ports())
            .map(|(id, _)| id.clone())
            .collect();
        for id in short {
            self.touch(&id);
        }
    }

    /// A Service was seen as `new`: did somebody take our key away?
    pub(super) fn saw_service(&mut self, old: Option<&Service>, new: Option<&Service>) {
        let Some(old) = old else { return };
        match new.filter(|new| new.meta.uid == old.meta.uid) {
            Some(new) if old.fenced && !new.fenced => {
                let now = self.routing.now();
                self.routing.taken.lost(&new.meta.uid, now);
            }
            Some(_) => {}
            None => self.routing.taken.is_gone(&old.meta.uid),
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

    fn touch_service(&mut self, name: &Name) {
        if let Some(labels) = self.services.get(name).map(|service| service.selector.clone()) {
            self.touch_labelled(&name.0, &labels);
        }
    }
}

fn unlink(all: &mut Beside, service: &Name, name: &Name) {
    if let Some(there) = all.get_mut(service) {
        there.remove(name);
        if there.is_empty() {
            all.remove(service);
        }
    }
}
