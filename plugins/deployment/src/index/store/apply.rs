//! Taking over states of objects, and objects that are gone.

use std::collections::HashSet;

use k8s_openapi::jiff::Timestamp;
use scaler_types::ResourceId;

use super::{ObjectChange, ObjectType, Seen, State, StateOrigin, workload_in};
use crate::{
    index::table::ObjectTable,
    objects::{HostRoute, ObjectName, OtherAutoscaler, PodObject, Workload, annotations},
};

impl State {
    /// A state of an object.
    pub(crate) fn apply(&mut self, change: ObjectChange, origin: StateOrigin) {
        match change {
            ObjectChange::Workload(workload) => self.apply_workload(*workload, origin),
            ObjectChange::Pod(pod) => self.apply_pod(*pod, origin),
            ObjectChange::Service(service) => {
                if self.services.is_news(&service, origin) {
                    let (name, labels) = (service.meta.key(), service.selector.clone());
                    self.services_called.entry(name.1.clone()).or_default().insert(name.0.clone());
                    self.services_by.put(name.clone(), &name.0, &labels);
                    let old = self.services.put(service.clone());
                    self.observe_service(old.as_ref(), Some(&service));
                    self.touch_labelled(&name.0, &labels);
                    if let Some(old) = old.as_ref().filter(|old| old.selector != labels) {
                        self.touch_labelled(&name.0, &old.selector);
                    }
                    self.touch_called(&name.1);
                    self.touch_pointing(&name, old.as_ref());
                }
            }
            ObjectChange::Route(topic, route) => {
                let table = self.routes(topic);
                if table.is_news(&route, origin) {
                    let name = route.meta.key();
                    let (hosts, rules) = (route.hosts.clone(), route.rules.clone());
                    let old = table.put(route);
                    let there = (topic == ObjectType::HttpRoutes, name.1);
                    self.routes_in.entry(name.0.clone()).or_default().insert(there);
                    let (had, old_rules) = old.map(|old| (old.hosts, old.rules)).unwrap_or_default();
                    self.touch_asking(&name.0, hosts.symmetric_difference(&had));
                    if rules != old_rules {
                        self.touch_rules(&name.0, rules.iter().chain(&old_rules));
                    }
                }
            }
            ObjectChange::Autoscaler(topic, scaler) => {
                let table = self.scalers(topic);
                if table.is_news(&scaler, origin) {
                    let name = scaler.meta.key();
                    let targets = [table.put(scaler.clone()), Some(scaler)];
                    for one in targets.into_iter().flatten() {
                        self.link_scaler(topic, &one, false);
                    }
                    let now = self.scalers(topic).get(&name).cloned();
                    if let Some(now) = now {
                        self.link_scaler(topic, &now, true);
                    }
                }
            }
            ObjectChange::Namespace(namespace) => {
                if self.namespaces.is_news(&namespace, origin) {
                    let name = namespace.meta.name.clone();
                    let old = self.namespaces.get(&namespace.meta.key());
                    let same = old.is_some_and(|old| old.annotations == namespace.annotations);
                    self.namespaces.put(namespace);
                    if !same {
                        self.touch_namespace(&name);
                    }
                }
            }
            ObjectChange::Slice(slice) => self.apply_slice(*slice, origin),
            ObjectChange::Policy(policy) => self.apply_policy(policy, origin),
            ObjectChange::PortRegistry(registry) => self.apply_registry(*registry, origin),
        }
    }

    /// An object is gone.
    pub(crate) fn remove(&mut self, topic: ObjectType, name: &ObjectName, uid: &str) {
        match topic {
            ObjectType::Workloads(kind) => {
                if let Some(gone) = self.workloads[kind].remove(name, uid) {
                    let id = gone.id();
                    if let Some(all) = self.in_namespace.get_mut(&name.0) {
                        all.remove(&id);
                    }
                    self.pods.forget_workload(&id);
                    self.index_workload(&gone, false);
                    self.seen.remove(&id);
                    self.touch_sharing(&gone);
                    if gone.is_dlx() {
                        self.touch_namespace(&name.0);
                    }
                    self.touch(&id);
                }
            }
            ObjectType::Pods => {
                for id in self.pods.remove(name, uid) {
                    self.touch(&id);
                }
            }
            ObjectType::Services => {
                if let Some(gone) = self.services.remove(name, uid) {
                    self.observe_service(Some(&gone), None);
                    self.services_by.remove(name);
                    if let Some(namespaces) = self.services_called.get_mut(&name.1) {
                        namespaces.remove(&name.0);
                    }
                    self.touch_labelled(&name.0, &gone.selector);
                    self.touch_called(&name.1);
                    self.touch_pointing(name, Some(&gone));
                }
            }
            ObjectType::Ingresses | ObjectType::HttpRoutes => {
                if let Some(gone) = self.routes(topic).remove(name, uid) {
                    if let Some(all) = self.routes_in.get_mut(&name.0) {
                        all.remove(&(topic == ObjectType::HttpRoutes, name.1.clone()));
                    }
                    self.touch_asking(&name.0, gone.hosts.iter());
                    self.touch_rules(&name.0, gone.rules.iter());
                }
            }
            ObjectType::Hpas | ObjectType::ScaledObjects => {
                if let Some(gone) = self.scalers(topic).remove(name, uid) {
                    self.link_scaler(topic, &gone, false);
                }
            }
            ObjectType::Namespaces => {
                if self.namespaces.remove(name, uid).is_some() {
                    self.touch_namespace(&name.1);
                }
            }
            ObjectType::Slices => self.remove_slice(name, uid),
            ObjectType::Policies => self.remove_policy(name, uid),
            ObjectType::PortRegistry => self.remove_registry(name, uid),
        }
    }

    /// The objects missing from a complete list of that revision.
    pub(crate) fn missing(
        &self,
        topic: ObjectType,
        listed: &HashSet<ObjectName>,
        revision: u64,
    ) -> Vec<(ObjectName, String)> {
        match topic {
            ObjectType::Workloads(kind) => self.workloads[kind].missing(listed, revision),
            ObjectType::Pods => self.pods.table().missing(listed, revision),
            ObjectType::Services => self.services.missing(listed, revision),
            ObjectType::Ingresses => self.ingresses.missing(listed, revision),
            ObjectType::HttpRoutes => self.http_routes.missing(listed, revision),
            ObjectType::Hpas => self.hpas.missing(listed, revision),
            ObjectType::ScaledObjects => self.scaled_objects.missing(listed, revision),
            ObjectType::Namespaces => self.namespaces.missing(listed, revision),
            ObjectType::Slices => self.interception.slices.missing(listed, revision),
            ObjectType::Policies => self.interception.policies.missing(listed, revision),
            ObjectType::PortRegistry => self.interception.registry.missing(listed, revision),
        }
    }

    fn apply_workload(&mut self, mut workload: Workload, origin: StateOrigin) {
        let table = &self.workloads[workload.kind.index];
        if !table.is_news(&workload, origin) {
            return;
        }
        let id = workload.id();
        let name = workload.meta.key();
        let old = table.get(&name);
        if let Some(old) = old {
            workload.follows(old);
        }
        let seen = self.seen.get(&id).filter(|seen| seen.uid == workload.meta.uid);
        let event_time = workload.stored.event_time.clone();
        let changed = match seen {
            Some(seen) if seen.spec != workload.spec => Some(Timestamp::now()),
            // Something happened to its scale since: that is what happened last.
            Some(seen) if seen.event_time == event_time => seen.changed,
            _ => None,
        };
        let (uid, spec) = (workload.meta.uid.clone(), workload.spec.clone());
        self.seen.insert(id.clone(), Seen { uid, spec, event_time, changed });
        self.in_namespace.entry(name.0.clone()).or_default().insert(id.clone());
        let was_dlx = old.is_some_and(Workload::is_dlx);
        self.pods.observe_workload(&id, old, &workload);
        let same = old.is_some_and(|old| {
            old.labels == workload.labels
                && old.annotations.get(annotations::HOSTS) == workload.annotations.get(annotations::HOSTS)
        });
        let kind = workload.kind.index;
        if !same {
            self.index_workload(&workload, true);
            self.touch_sharing(&workload);
        }
        if let Some(old) = self.workloads[kind].put(workload).filter(|_| !same) {
            self.index_workload(&old, false);
            if let Some(now) = self.workloads[kind].get(&name).cloned() {
                // Restores the entries that both have.
                self.index_workload(&now, true);
            }
            self.touch_sharing(&old);
        }
        if !same && (was_dlx || self.is_dlx(&id)) {
            // A Service of the namespace may select its pods.
            self.touch_namespace(&name.0);
        }
        self.touch(&id);
    }

    fn apply_pod(&mut self, pod: PodObject, origin: StateOrigin) {
        let Some((name, owners)) = self.pods.put(pod, origin, |id, pod| {
            workload_in(&self.kinds, &self.workloads, id).is_some_and(|one| one.selector.matches(&pod.labels))
        }) else {
            return;
        };
        for id in owners {
            if self.workload(&id).is_some_and(|workload| workload.replicas == 0) {
                self.pods.suspect(&id, &name);
            }
            self.touch(&id);
        }
    }

    fn routes(&mut self, topic: ObjectType) -> &mut ObjectTable<HostRoute> {
        if topic == ObjectType::HttpRoutes { &mut self.http_routes } else { &mut self.ingresses }
    }

    fn scalers(&mut self, topic: ObjectType) -> &mut ObjectTable<OtherAutoscaler> {
        if topic == ObjectType::ScaledObjects { &mut self.scaled_objects } else { &mut self.hpas }
    }

    fn link_scaler(&mut self, topic: ObjectType, scaler: &OtherAutoscaler, there: bool) {
        let (kind, target) = &scaler.target;
        let Some(kind) = self.kinds.iter().find(|known| known.api.kind == *kind) else { return };
        let id = ResourceId::new(&*scaler.meta.namespace, kind.resource_name(target));
        let one = (topic == ObjectType::ScaledObjects, scaler.meta.name.clone());
        let all = self.scalers_of.entry(id.clone()).or_default();
        if there {
            all.insert(one);
        } else {
            all.remove(&one);
            if all.is_empty() {
                self.scalers_of.remove(&id);
            }
        }
        self.touch(&id);
    }
}
