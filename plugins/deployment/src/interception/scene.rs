//! The objects of a cluster, given by a test, on a clock that the test moves.

use std::{
    cell::Cell,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use k8s_openapi::api::{
    core::v1::{ConfigMap, Service},
    discovery::v1::EndpointSlice,
    networking::v1::{Ingress, NetworkPolicy},
};
use kube::core::{ApiResource, GroupVersionKind};
use scaler_types::{Resource, ResourceId, Role, ServicePorts};
use serde_json::{Value, json};

use super::{
    WorkloadInterception,
    desired::refusals::{InterceptionRefusal, check_interception},
    interception_status,
};
use crate::{
    config::{PluginConfig, tests::context},
    index::{ObjectChange, ObjectType, StateOrigin, Store},
    objects::{COMPONENT, DLXS, FORMAT, Kind, MANAGED_BY, SELECTOR_KEY, SERVICE, Workload},
    resource::project,
    workload::options::workload_options,
};

/// What a cluster has.
pub(crate) struct Scene {
    pub(crate) store: Store,
    kind: Arc<Kind>,
    revision: Cell<u64>,
    now: Arc<Mutex<Instant>>,
}

impl Scene {
    /// With nothing in it.
    pub(crate) fn with(role: Role, ports: Option<ServicePorts>) -> Self {
        Self::by_file("namespace: shop\n", role, ports)
    }

    /// The same by this namespace file.
    pub(crate) fn by_file(file: &str, role: Role, ports: Option<ServicePorts>) -> Self {
        let mut context = context(file);
        (context.role, context.service_ports) = (role, ports);
        context.daemon_namespace = Some("scaler".to_owned());
        let api = ApiResource::from_gvk(&GroupVersionKind::gvk("apps", "v1", "Deployment"));
        let kind = Arc::new(Kind { index: 0, api, replicas_path: "/spec/replicas".to_owned() });
        let config = Arc::new(PluginConfig::read(&context).unwrap());
        let now = Arc::new(Mutex::new(Instant::now()));
        let clock = Arc::clone(&now);
        let clock = Arc::new(move || *clock.lock().unwrap());
        let store = Store::new(config, vec![Arc::clone(&kind)], clock, project);
        Self { store, kind, revision: Cell::new(1), now }
    }

    /// A leader's, with a workload `web` that is to be intercepted and has one container port, `http`.
    pub(crate) fn new() -> Self {
        let scene = Self::with(Role::Autoscaler, Some(ServicePorts { first: 20000, last: 20001 }));
        scene.workload("web", "web", json!({}));
        scene
    }

    pub(crate) fn pass(&self, time: Duration) {
        *self.now.lock().unwrap() += time;
    }

    fn metadata(&self, name: &str, more: &Value) -> Value {
        self.revision.set(self.revision.get() + 1);
        let mut metadata = json!({
            "name": name, "namespace": "shop", "uid": name, "resourceVersion": self.revision.get().to_string(),
        });
        for (key, value) in more.as_object().unwrap() {
            metadata[key] = value.clone();
        }
        metadata
    }

    /// A workload that is to be intercepted, with more annotations.
    pub(crate) fn workload(&self, name: &str, app: &str, more: Value) {
        let mut annotations = json!({"scaler.dev/scale-to-zero": "10m", "scaler.dev/intercept": "always"});
        for (key, value) in more.as_object().unwrap() {
            annotations[key] = value.clone();
        }
        annotations.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        self.labelled(name, annotations, json!({"app": app, "tier": "front"}));
    }

    /// The DLX, among the workloads that are there.
    pub(crate) fn dlx(&self, app: &str) {
        self.labelled("dlx", json!({}), json!({"app": app, COMPONENT: "dlx"}));
    }

    fn labelled(&self, name: &str, annotations: Value, labels: Value) {
        let container = json!({"name": "c", "ports": [{"name": "http", "containerPort": 8080}]});
        let object = json!({
            "metadata": self.metadata(name, &json!({"annotations": annotations})),
            "spec": {
                "replicas": 1, "selector": {"matchLabels": {"app": labels["app"]}},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
            },
        });
        let workload = Workload::new(&self.kind, serde_json::from_value(object).unwrap());
        self.apply(ObjectChange::Workload(Box::new(workload)));
    }

    /// A Service of that name, with more said of it.
    pub(crate) fn service(&self, name: &str, more: Value) {
        let mut spec = json!({
            "selector": {"app": "web"}, "ipFamilies": ["IPv4"], "clusterIP": "10.96.0.1",
            "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
        });
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let object = json!({"metadata": self.metadata(name, &json!({})), "spec": spec});
        let service = serde_json::from_value::<Service>(object).unwrap();
        self.apply(ObjectChange::Service(service.into()));
    }

    /// The same, with our key.
    pub(crate) fn intercepted_service(&self, name: &str) {
        self.service(name, json!({"selector": {"app": "web", SELECTOR_KEY: "1"}}));
    }

    pub(crate) fn policy(&self, name: &str, spec: Value) {
        let object = json!({"metadata": self.metadata(name, &json!({})), "spec": spec});
        self.apply(ObjectChange::Policy(serde_json::from_value::<NetworkPolicy>(object).unwrap().into()));
    }

    /// Our slice of a Service, with a DLX per name, from 10.0.0.1; its port `http` is the parameter.
    pub(crate) fn our_slice(&self, service: &str, format: &str, dlxs: &str, ports: &[u16]) {
        let labels = json!({SERVICE: service, MANAGED_BY.0: MANAGED_BY.1});
        let owner = json!({"apiVersion": "v1", "kind": "Service", "name": service, "uid": service});
        let more = json!({
            "labels": labels, "annotations": {FORMAT: format, DLXS: dlxs}, "ownerReferences": [owner],
        });
        let endpoints = dlxs
            .split(',')
            .enumerate()
            .map(|(number, _)| json!({"addresses": [format!("10.0.0.{}", number + 1)]}));
        let ports = ports.iter().map(|port| json!({"name": "http", "port": port}));
        self.slice(&format!("{service}-scaler-ipv4"), &more, endpoints.collect(), ports.collect());
    }

    /// The slice of a Service's own endpoints.
    pub(crate) fn own_slice(&self, service: &str, endpoints: Value) {
        let labels = json!({SERVICE: service, MANAGED_BY.0: "endpointslice-controller.k8s.io"});
        self.slice(&format!("{service}-own"), &json!({"labels": labels}), endpoints, json!([]));
    }

    fn slice(&self, name: &str, more: &Value, endpoints: Value, ports: Value) {
        let object = json!({
            "metadata": self.metadata(name, more), "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
        });
        let slice = serde_json::from_value::<EndpointSlice>(object).unwrap();
        self.apply(ObjectChange::Slice(Box::new(slice.into())));
    }

    /// An Ingress that routes a host to a Service of its namespace.
    pub(crate) fn ingress(&self, name: &str, host: &str, service: &str) {
        let backend = json!({"service": {"name": service, "port": {"number": 80}}});
        let paths = json!([{"path": "/", "pathType": "Prefix", "backend": backend}]);
        let spec = json!({"rules": [{"host": host, "http": {"paths": paths}}]});
        let object = json!({"metadata": self.metadata(name, &json!({})), "spec": spec});
        let ingress = serde_json::from_value::<Ingress>(object).unwrap();
        self.apply(ObjectChange::Route(ObjectType::Ingresses, ingress.into()));
    }

    pub(crate) fn no_ingress(&self, name: &str) {
        self.store.with(|state| state.remove(ObjectType::Ingresses, &("shop".into(), name.into()), name));
    }

    pub(crate) fn no_service(&self, name: &str) {
        self.store.with(|state| state.remove(ObjectType::Services, &("shop".into(), name.into()), name));
    }

    pub(crate) fn no_workload(&self, name: &str) {
        self.store.with(|state| state.remove(ObjectType::Workloads(0), &("shop".into(), name.into()), name));
    }

    pub(crate) fn no_slice(&self, name: &str) {
        self.store.with(|state| state.remove(ObjectType::Slices, &("shop".into(), name.into()), name));
    }

    /// The registry: each port with the Service it is assigned to, whose port is `http`.
    pub(crate) fn registry(&self, ports: &[(u16, &str)]) {
        let entry =
            |service: &str| json!({"namespace": "shop", "service": service, "uid": service, "port": "http"});
        let data = ports.iter().map(|(port, service)| (port.to_string(), entry(service).to_string().into()));
        let data: serde_json::Map<String, Value> = data.collect();
        let object = json!({"metadata": self.metadata("scaler-service-ports", &json!({})), "data": data});
        self.apply(ObjectChange::PortRegistry(Box::new(
            serde_json::from_value::<ConfigMap>(object).unwrap().into(),
        )));
    }

    fn apply(&self, change: ObjectChange) {
        self.store.with(|state| state.apply(change, StateOrigin::Watch));
    }

    /// What is kept of a Service.
    pub(crate) fn fact(&self, name: &str) -> crate::objects::Service {
        self.store.with(|state| state.service(&("shop".into(), name.into())).cloned().unwrap())
    }

    pub(crate) fn refusal(&self) -> Option<String> {
        self.store.with(|state| {
            let workload = state.workload(&ResourceId::new("shop", "web")).unwrap();
            check_interception(state, workload, &workload_options(state, workload), &state.interception.dlxs)
                .map(InterceptionRefusal::text)
        })
    }

    pub(crate) fn status(&self) -> WorkloadInterception {
        self.store.with(|state| {
            let workload = state.workload(&ResourceId::new("shop", "web")).unwrap();
            interception_status(state, workload, &workload_options(state, workload))
        })
    }

    /// As the daemons see it.
    pub(crate) fn listed(&self, name: &str) -> Option<Resource> {
        self.store.resources().into_iter().find(|resource| resource.id.name == name)
    }
}
