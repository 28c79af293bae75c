//! Which resources are affected by a change, and what follows for them.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::jiff::Timestamp;
use scaler_types::{Changes, ResourceId};

use super::State;
use crate::{
    index::Projection,
    objects::{Labels, ObjectName, RouteRule, Service, Workload, annotations, host_name},
};

impl State {
    /// A resource has to be worked out again.
    pub(crate) fn touch(&mut self, id: &ResourceId) {
        self.touches += 1;
        self.dirty.insert(id.clone());
        self.track_interception(id);
        if let Some(signal) = self.signals.get(id) {
            signal.send_modify(|count| *count += 1);
        }
    }

    pub(super) fn touch_namespace(&mut self, namespace: &Arc<str>) {
        for id in self.in_namespace.get(namespace).cloned().unwrap_or_default() {
            self.touch(&id);
        }
    }

    /// Those whose pods have these labels among others.
    pub(super) fn touch_labelled(&mut self, namespace: &Arc<str>, labels: &Labels) {
        for id in self.labelled.with(namespace, labels) {
            self.touch(&id);
        }
    }

    /// Those that ask for one of these hosts.
    pub(super) fn touch_asking<'a>(&mut self, namespace: &Arc<str>, hosts: impl Iterator<Item = &'a String>) {
        for host in hosts {
            if host.starts_with("*.") {
                return self.touch_namespace(namespace);
            }
            for id in self.asking.get(&(namespace.clone(), host.clone())).cloned().unwrap_or_default() {
                self.touch(&id);
            }
        }
    }

    /// Those whose requests come by these rules of Ingresses and HTTPRoutes, by a host that they ask for or by their Services' names.
    pub(super) fn touch_rules<'a>(
        &mut self,
        namespace: &Arc<str>,
        rules: impl Iterator<Item = &'a RouteRule>,
    ) {
        let hosts: BTreeSet<&String> = rules.flat_map(|rule| &rule.hosts).collect();
        self.touch_asking(namespace, hosts.iter().copied());
        for host in hosts {
            let name = host.split('.').next().unwrap_or_default();
            if let Some(service) = self.services.get(&(namespace.clone(), name.into())) {
                let labels = service.selector.clone();
                self.touch_labelled(namespace, &labels);
            }
        }
    }

    /// A Service changed: routes to it may send to the DLXs now, or no longer.
    pub(super) fn touch_pointing(&mut self, name: &ObjectName, old: Option<&Service>) {
        let is_name = [old, self.services.get(name)].iter().flatten().any(|one| one.external_name.is_some());
        let was_dlxs = old.is_some_and(|old| self.selects_dlxs(old));
        if is_name || was_dlxs || self.is_dlx_service(name) {
            self.touch_namespace(&name.0);
        }
    }

    /// Where a workload is found by its labels and hosts.
    pub(super) fn index_workload(&mut self, workload: &Workload, there: bool) {
        let (id, namespace) = (workload.id(), &workload.meta.namespace);
        self.labelled.set(&id, namespace, &workload.labels, there);
        let hosts = workload.annotations.get(annotations::HOSTS);
        for host in hosts.and_then(|text| host_name::parse_list(text).ok()).unwrap_or_default() {
            let place = (namespace.clone(), host);
            let all = self.asking.entry(place.clone()).or_default();
            if there {
                all.insert(id.clone());
            } else {
                all.remove(&id);
                if all.is_empty() {
                    self.asking.remove(&place);
                }
            }
        }
    }

    /// Where all namespaces are managed: those of every Service of that name, since its bare name may be another's now.
    pub(super) fn touch_called(&mut self, name: &Arc<str>) {
        if self.config.namespace.is_some() {
            return;
        }
        for namespace in self.services_called.get(name).cloned().unwrap_or_default() {
            let service = self.services.get(&(namespace.clone(), name.clone()));
            let labels = service.map(|service| service.selector.clone()).unwrap_or_default();
            self.touch_labelled(&namespace, &labels);
        }
    }

    /// Works out what was touched.
    pub(crate) fn settle(&mut self) {
        for id in std::mem::take(&mut self.dirty) {
            let Projection { listed, not_managed: warning } = (self.project)(self, &id);
            if warning.as_ref() != self.not_managed.get(&id) {
                match &warning {
                    Some(warning) => drop(self.not_managed.insert(id.clone(), warning.clone())),
                    None => drop(self.not_managed.remove(&id)),
                }
                self.warnings.extend(warning.map(|warning| (id.clone(), warning)));
            }
            match listed {
                Some(new) => {
                    let old = self.listed.get(&id);
                    if old.is_some_and(|old| *old == new) {
                        continue;
                    }
                    let known = old.map(|old| old.warnings.clone()).unwrap_or_default();
                    for warning in new.warnings.iter().filter(|one| !known.contains(*one)) {
                        self.warnings.push((id.clone(), warning.clone()));
                    }
                    self.log.changed(&id);
                    self.listed.insert(id, new);
                }
                None => {
                    if self.listed.remove(&id).is_some() {
                        self.log.removed(&id);
                    }
                }
            }
        }
    }

    /// The changes since the cursor; `None`: none.
    pub(super) fn changes_since(&mut self, cursor: u64) -> Option<Changes> {
        self.settle();
        let now = (Timestamp::now(), self.interception.now());
        let changes = self.log.since(cursor);
        let (complete, resources, removed) = match changes {
            Some((changed, removed)) if changed.is_empty() && removed.is_empty() => return None,
            Some((changed, removed)) => {
                let all = changed.iter().filter_map(|id| self.listed.get(id));
                (false, all.map(|listed| listed.resource_at(now)).collect(), removed)
            }
            None => (true, self.listed.values().map(|listed| listed.resource_at(now)).collect(), Vec::new()),
        };
        Some(Changes { cursor: self.log.cursor(), complete, resources, removed })
    }
}
