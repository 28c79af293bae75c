//! All objects in one place, and what follows from them.

mod apply;
mod interception;
mod settle;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::{api::core::v1::ObjectReference, jiff::Timestamp};
use scaler_types::{Changes, Resource, ResourceId};
use tokio::sync::watch;

use super::{
    ListedWorkload, MissingPodLabel, Project, Warning,
    change_log::ChangeLog,
    labels::{LabelIndex, SelectorIndex},
    pods::Pods,
    table::ObjectTable,
};
use crate::{
    config::PluginConfig,
    objects::{
        HostRoute, Kind, NamespaceAnnotations, ObjectName, OtherAutoscaler, PodObject, Policy, PortRegistry,
        Service, Slice, Workload,
    },
};

pub(crate) use interception::{Clock, InterceptionState};

pub(crate) use super::table::StateOrigin;

/// One type of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ObjectType {
    /// Workloads of one kind.
    Workloads(usize),
    Pods,
    Services,
    Ingresses,
    HttpRoutes,
    Hpas,
    ScaledObjects,
    Namespaces,
    Slices,
    Policies,
    /// The registry of ports.
    PortRegistry,
}

/// A state of an object.
#[derive(Debug)]
pub(crate) enum ObjectChange {
    Workload(Box<Workload>),
    Pod(Box<PodObject>),
    Service(Service),
    /// Of an Ingress or HTTPRoute.
    Route(ObjectType, HostRoute),
    /// Of another one that scales.
    Autoscaler(ObjectType, OtherAutoscaler),
    Namespace(NamespaceAnnotations),
    Slice(Box<Slice>),
    Policy(Policy),
    /// Of the registry of ports.
    PortRegistry(Box<PortRegistry>),
}

/// All that is known.
pub(crate) struct Store {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

/// The index's state, behind its lock.
pub(crate) struct State {
    /// The namespace file's configuration.
    pub(crate) config: Arc<PluginConfig>,
    /// Why nothing is managed in the daemons' own namespace, if so.
    pub(crate) missing_pod_label: Option<MissingPodLabel>,
    project: Project,
    kinds: Vec<Arc<Kind>>,
    workloads: Vec<ObjectTable<Workload>>,
    /// Pods by workload.
    pub(crate) pods: Pods,
    services: ObjectTable<Service>,
    ingresses: ObjectTable<HostRoute>,
    http_routes: ObjectTable<HostRoute>,
    hpas: ObjectTable<OtherAutoscaler>,
    scaled_objects: ObjectTable<OtherAutoscaler>,
    namespaces: ObjectTable<NamespaceAnnotations>,
    /// The state of intercepted Services.
    pub(crate) interception: InterceptionState,
    in_namespace: HashMap<Arc<str>, BTreeSet<ResourceId>>,
    labelled: LabelIndex<ResourceId>,
    /// The resources that ask for a host by annotation.
    asking: HashMap<(Arc<str>, String), BTreeSet<ResourceId>>,
    routes_in: HashMap<Arc<str>, BTreeSet<(bool, Arc<str>)>>,
    services_by: SelectorIndex<ObjectName>,
    services_called: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    scalers_of: HashMap<ResourceId, BTreeSet<(bool, Arc<str>)>>,
    seen: HashMap<ResourceId, Seen>,
    dirty: BTreeSet<ResourceId>,
    listed: BTreeMap<ResourceId, ListedWorkload>,
    log: ChangeLog,
    signals: HashMap<ResourceId, watch::Sender<u64>>,
    /// With so many signals those without a receiver are dropped.
    signals_pruned_at: usize,
    warnings: Vec<(ResourceId, Warning)>,
    /// Warnings on workloads that are not managed.
    not_managed: BTreeMap<ResourceId, Warning>,
    touches: u64,
}

/// A workload's specification, as this process saw it.
#[derive(Debug)]
struct Seen {
    uid: String,
    spec: String,
    event_time: Option<String>,
    changed: Option<Timestamp>,
}

// === impl Store ===

impl Store {
    /// Nothing is known yet.
    pub(crate) fn new(
        config: Arc<PluginConfig>,
        kinds: Vec<Arc<Kind>>,
        clock: Clock,
        project: Project,
    ) -> Self {
        let state = State {
            config,
            missing_pod_label: None,
            project,
            workloads: kinds.iter().map(|_| ObjectTable::default()).collect(),
            kinds,
            pods: Pods::default(),
            services: ObjectTable::default(),
            ingresses: ObjectTable::default(),
            http_routes: ObjectTable::default(),
            hpas: ObjectTable::default(),
            scaled_objects: ObjectTable::default(),
            namespaces: ObjectTable::default(),
            interception: InterceptionState::new(clock),
            in_namespace: HashMap::new(),
            labelled: LabelIndex::default(),
            asking: HashMap::new(),
            routes_in: HashMap::new(),
            services_by: SelectorIndex::default(),
            services_called: HashMap::new(),
            scalers_of: HashMap::new(),
            seen: HashMap::new(),
            dirty: BTreeSet::new(),
            listed: BTreeMap::new(),
            log: ChangeLog::default(),
            signals: HashMap::new(),
            signals_pruned_at: 100,
            warnings: Vec::new(),
            not_managed: BTreeMap::new(),
            touches: 0,
        };
        Self { state: Mutex::new(state), changed: watch::Sender::new(0) }
    }

    /// Works on the state, and wakes its watchers if something changed.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = work(&mut state);
        let touches = state.touches;
        drop(state);
        self.changed.send_if_modified(|seen| {
            let news = *seen < touches;
            *seen = touches.max(*seen);
            news
        });
        result
    }

    /// Changes when anything did.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Changes when something did that one resource depends on.
    pub(crate) fn watch_resource(&self, id: &ResourceId) -> watch::Receiver<u64> {
        let mut state = self.lock();
        if state.signals.len() >= state.signals_pruned_at {
            state.signals.retain(|_, sender| sender.receiver_count() > 0);
            state.signals_pruned_at = 100 + 2 * state.signals.len();
        }
        state.signals.entry(id.clone()).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    /// All resources as they are known now.
    pub(crate) fn resources(&self) -> Vec<Resource> {
        self.with(|state| {
            state.settle();
            let now = (Timestamp::now(), state.interception.now());
            state.listed.values().map(|listed| listed.resource_at(now)).collect()
        })
    }

    /// The changes since the cursor; waits for them.
    pub(crate) async fn changes(&self, cursor: u64) -> Changes {
        let mut changed = self.changed();
        loop {
            changed.borrow_and_update();
            if let Some(changes) = self.with(|state| state.changes_since(cursor)) {
                return changes;
            }
            // Closed never: `self` holds it.
            let _ = changed.changed().await;
        }
    }

    /// New warnings, each once.
    pub(crate) fn warnings(&self) -> Vec<(ResourceId, Warning)> {
        self.with(|state| {
            state.settle();
            std::mem::take(&mut state.warnings)
        })
    }

    /// The object that a warning is about, if it still holds.
    pub(crate) fn standing_warning(&self, id: &ResourceId, warning: &Warning) -> Option<ObjectReference> {
        self.with(|state| {
            state.settle();
            let listed = state.listed.get(id).is_some_and(|listed| listed.warnings.contains(warning));
            let holds = listed || state.not_managed.get(id) == Some(warning);
            state.workload(id).filter(|_| holds).map(Workload::reference)
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while it is held is a bug; what was changed by then is whole objects.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    /// The workload of that identity.
    pub(crate) fn workload(&self, id: &ResourceId) -> Option<&Workload> {
        workload_in(&self.kinds, &self.workloads, id)
    }

    /// Whether metrics decide how many replicas it has, as the daemons see it.
    pub(crate) fn is_scaled(&self, id: &ResourceId) -> bool {
        self.listed.get(id).is_some_and(|listed| listed.resource.scaling.is_some())
    }

    /// The Services that select a workload's pods, the one of its own name first.
    pub(crate) fn services_of(&self, workload: &Workload) -> Vec<&Service> {
        let candidates = self.services_by.candidates(&workload.meta.namespace, &workload.labels);
        let mut services: Vec<&Service> = candidates
            .into_iter()
            .filter_map(|name| self.services.get(name))
            .filter(|service| service.selects(&workload.labels))
            .collect();
        services.sort_by_key(|service| (service.meta.name != workload.meta.name, service.meta.name.clone()));
        services
    }

    /// Whether a Service's bare name means the one in this namespace and no other that is managed.
    pub(crate) fn is_alone(&self, name: &str) -> bool {
        self.config.namespace.is_some()
            || self.services_called.get(name).is_none_or(|namespaces| namespaces.len() <= 1)
    }

    /// Whether an Ingress or HTTPRoute of the namespace has the host.
    pub(crate) fn is_routed(&self, namespace: &Arc<str>, host: &str) -> bool {
        self.routes_in.get(namespace).into_iter().flatten().any(|(http, name)| {
            let table = if *http { &self.http_routes } else { &self.ingresses };
            table.get(&(namespace.clone(), name.clone())).is_some_and(|route| route.has(host))
        })
    }

    /// The Ingress or HTTPRoute of the namespace that sends requests for the host to the DLXs, if one does; human-readable.
    pub(crate) fn points_at_dlxs(&self, namespace: &Arc<str>, host: &str) -> Option<String> {
        let all = self.routes_in.get(namespace).into_iter().flatten();
        all.filter_map(|(http, name)| {
            let (table, kind) =
                if *http { (&self.http_routes, "HTTPRoute") } else { (&self.ingresses, "Ingress") };
            Some((kind, table.get(&(namespace.clone(), name.clone()))?))
        })
        .find(|(_, route)| {
            let mut rules = route.rules.iter().filter(|rule| rule.has(host));
            rules.any(|rule| rule.services.iter().any(|service| self.is_dlx_service(service)))
        })
        .map(|(kind, route)| format!("the {kind} {}", route.meta.name))
    }

    /// Whether a Service is one of the DLXs: theirs, another name for that, or one that selects their pods.
    pub(crate) fn is_dlx_service(&self, name: &ObjectName) -> bool {
        let PluginConfig { home, dlx_service, .. } = &*self.config;
        if home.as_deref() == Some(&*name.0) && *dlx_service == *name.1 {
            return true;
        }
        self.services
            .get(name)
            .is_some_and(|service| self.is_dlx_alias(service) || self.selects_dlxs(service))
    }

    /// Whether a Service selects pods of DLXs.
    fn selects_dlxs(&self, service: &Service) -> bool {
        self.workloads_of(service).iter().any(|id| self.is_dlx(id))
    }

    /// Whether a Service is another name for the DLXs'.
    fn is_dlx_alias(&self, service: &Service) -> bool {
        let PluginConfig { home: Some(home), dlx_service, .. } = &*self.config else { return false };
        let name = format!("{dlx_service}.{home}.svc");
        service.external_name.as_ref().is_some_and(|external| {
            let rest = external.to_ascii_lowercase();
            rest.strip_prefix(&name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }

    fn is_dlx(&self, id: &ResourceId) -> bool {
        self.workload(id).is_some_and(Workload::is_dlx)
    }

    /// The others that scale a workload.
    pub(crate) fn scalers_of(&self, workload: &Workload) -> impl Iterator<Item = &OtherAutoscaler> {
        let namespace = workload.meta.namespace.clone();
        let found = self.scalers_of.get(&workload.id()).into_iter().flatten();
        found.filter_map(move |(keda, name)| {
            let table = if *keda { &self.scaled_objects } else { &self.hpas };
            table.get(&(namespace.clone(), name.clone()))
        })
    }

    /// The annotations of a namespace.
    pub(crate) fn namespace(&self, name: &Arc<str>) -> Option<&NamespaceAnnotations> {
        self.namespaces.get(&("".into(), name.clone()))
    }

    /// When another writer last changed a workload's specification, as far as this process saw.
    pub(crate) fn changed_at(&self, id: &ResourceId) -> Option<Timestamp> {
        self.seen.get(id)?.changed
    }
}

fn workload_in<'a>(
    kinds: &[Arc<Kind>],
    workloads: &'a [ObjectTable<Workload>],
    id: &ResourceId,
) -> Option<&'a Workload> {
    let (kind, name) = match id.name.split_once('/') {
        None => ("deployment", id.name.as_str()),
        Some(parts) => parts,
    };
    let kind = kinds.iter().find(|known| known.api.kind.eq_ignore_ascii_case(kind))?;
    workloads[kind.index].get(&(id.namespace.as_str().into(), name.into()))
}
