//! A cluster's API, instances of the plugin on it, and the test in the place of its controllers and kubelets.
#![allow(dead_code, unused_imports, reason = "each test file uses its own part")]

mod interception;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use deployment::DeploymentScaler;
use devcluster::{Cluster, Fault, Filter, Options, Refusal, User};
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    core::{ApiResource, GroupVersionKind},
};
use scaler_types::{
    Backend, Coordination, Dlx, InterceptionRequest, Nonce, Phase, PluginContext, Record, Resource,
    ResourceId, ResourceScaler, Role, ScaleError, ScaleRequest, ServicePorts, Target, Version,
};
use serde_json::{Value, json};
use tempfile::TempDir;

pub use interception::*;

pub const NAMESPACE: &str = "shop";
/// Where the daemons run.
pub const HOME: &str = "scaler";
/// A safety net only.
pub const SOON: Duration = Duration::from_secs(20);

pub struct Scene {
    pub cluster: Cluster,
    pub client: Client,
    folder: TempDir,
}

/// A try of something that ends, or the test fails.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what).await.expect("it ends soon")
}

pub fn id(name: &str) -> ResourceId {
    ResourceId::new(NAMESPACE, name)
}

pub fn record(state: Phase, nonce: u64) -> Record {
    Record { phase: state, nonce: Nonce(nonce), reason: "a test".to_owned(), ..Record::default() }
}

pub fn api_resource(kind: &str) -> ApiResource {
    let (group, version, plural) = match kind {
        "Deployment" | "StatefulSet" | "ReplicaSet" => ("apps", "v1", ""),
        "Ingress" => ("networking.k8s.io", "v1", "ingresses"),
        "NetworkPolicy" => ("networking.k8s.io", "v1", "networkpolicies"),
        "EndpointSlice" => ("discovery.k8s.io", "v1", ""),
        "HorizontalPodAutoscaler" => ("autoscaling", "v2", ""),
        "ScaledObject" => ("keda.sh", "v1alpha1", ""),
        "Worker" => ("example.org", "v1", ""),
        "CustomResourceDefinition" => ("apiextensions.k8s.io", "v1", ""),
        "Role" | "RoleBinding" => ("rbac.authorization.k8s.io", "v1", ""),
        "Event" => ("events.k8s.io", "v1", ""),
        _ => ("", "v1", ""),
    };
    let plural = match plural {
        "" => format!("{}s", kind.to_ascii_lowercase()),
        plural => plural.to_owned(),
    };
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), &plural)
}

// === impl Scene ===

impl Scene {
    pub async fn new() -> Self {
        let cluster = Cluster::start(Options { dual_stack: true, ..Options::default() }).unwrap();
        let client = cluster.client().unwrap();
        let scene = Self { cluster, client, folder: tempfile::tempdir().unwrap() };
        let namespaces: Api<DynamicObject> = Api::all_with(scene.client.clone(), &api_resource("Namespace"));
        for name in [NAMESPACE, HOME] {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            let namespace = serde_json::from_value(namespace).unwrap();
            namespaces.create(&PostParams::default(), &namespace).await.unwrap();
        }
        scene
    }

    /// A Deployment `web` of three that opted in, with its Service.
    pub async fn with_web() -> Self {
        let scene = Self::new().await;
        scene.create("Deployment", deployment("web", 3)).await;
        scene.create("Service", service("web", "web")).await;
        scene
    }

    pub fn api(&self, kind: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), NAMESPACE, &api_resource(kind))
    }

    pub fn kubeconfig(&self, user: &User) -> PathBuf {
        self.cluster.kubeconfig(self.folder.path(), user).unwrap()
    }

    pub fn context(&self, role: Role, user: &User, section: &str) -> PluginContext {
        PluginContext {
            namespace: NAMESPACE.to_owned(),
            role,
            state_dir: self.folder.path().into(),
            plugin_dir: "plugins".into(),
            kubeconfig: Some(self.kubeconfig(user)),
            coordination: Coordination::Leases,
            daemon_namespace: None,
            service_ports: None,
            daemon_pod: None,
            dlx_service: "scaler-dlx".to_owned(),
            metrics_urls: Vec::new(),
            kind: "deployment".to_owned(),
            namespace_file: "shop.yaml".to_owned(),
            namespace_file_text: format!("namespace: {NAMESPACE}\nplugins: {{deployment: {section}}}\n")
                .into(),
        }
    }

    pub async fn plugin_of(&self, role: Role, user: &User, section: &str) -> Arc<DeploymentScaler> {
        Arc::new(soon(DeploymentScaler::new(self.context(role, user, section))).await.unwrap())
    }

    pub async fn dlx(&self) -> Arc<DeploymentScaler> {
        self.plugin_of(Role::Dlx, &User::Admin, "{}").await
    }

    pub async fn autoscaler(&self) -> Arc<DeploymentScaler> {
        // With names of the operator's, so that a request could wake them.
        let section = "{hosts: {web: [web.example.com], fine: [fine.example.com]}}";
        self.plugin_of(Role::Autoscaler, &User::Admin, section).await
    }

    /// Makes a kind of custom resource known.
    pub async fn define(&self, kind: &str, subresources: Value) {
        let ApiResource { group, version, plural, .. } = api_resource(kind);
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.{group}")},
            "spec": {
                "group": group, "scope": "Namespaced",
                "names": {"kind": kind, "plural": plural, "singular": kind.to_ascii_lowercase(), "listKind": format!("{kind}List")},
                "versions": [{
                    "name": version, "served": true, "storage": true, "subresources": subresources,
                    "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
                }],
            },
        });
        let definitions: Api<DynamicObject> =
            Api::all_with(self.client.clone(), &api_resource("CustomResourceDefinition"));
        let definition = serde_json::from_value(definition).unwrap();
        definitions.create(&PostParams::default(), &definition).await.unwrap();
    }

    pub async fn create(&self, kind: &str, mut object: Value) -> DynamicObject {
        let types = api_resource(kind);
        object["apiVersion"] = types.api_version.into();
        object["kind"] = kind.into();
        let object = serde_json::from_value(object).unwrap();
        self.api(kind).create(&PostParams::default(), &object).await.unwrap()
    }

    /// Gives a service account rights in the namespace.
    pub async fn grant(&self, account: &str, rules: Value) {
        self.grant_in(NAMESPACE, account, rules).await;
    }

    pub async fn grant_in(&self, namespace: &str, account: &str, rules: Value) {
        let role = json!({"metadata": {"name": account}, "rules": rules});
        let binding = json!({
            "metadata": {"name": account},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": account},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}],
        });
        for (kind, mut object) in [("Role", role), ("RoleBinding", binding)] {
            let types = api_resource(kind);
            object["apiVersion"] = types.api_version.clone().into();
            object["kind"] = kind.into();
            let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &types);
            api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
        }
    }

    pub async fn get(&self, kind: &str, name: &str) -> DynamicObject {
        self.api(kind).get(name).await.unwrap()
    }

    pub async fn merge(&self, kind: &str, name: &str, patch: Value) {
        self.api(kind).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    pub async fn status(&self, kind: &str, name: &str, status: Value) {
        let patch = Patch::Merge(json!({ "status": status }));
        self.api(kind).patch_status(name, &PatchParams::default(), &patch).await.unwrap();
    }

    pub async fn annotate(&self, name: &str, key: &str, value: &str) {
        self.merge("Deployment", name, json!({"metadata": {"annotations": {key: value}}})).await;
    }

    pub async fn delete(&self, kind: &str, name: &str) {
        self.api(kind).delete(name, &DeleteParams::default().grace_period(0)).await.unwrap();
    }

    /// The Deployment's controller has seen it as it is, and counts so many pods.
    pub async fn observe(&self, name: &str, pods: u32) {
        let generation = self.get("Deployment", name).await.metadata.generation;
        self.status("Deployment", name, json!({"observedGeneration": generation, "replicas": pods})).await;
    }

    pub async fn replicas(&self, name: &str) -> u64 {
        self.get("Deployment", name).await.data["spec"]["replicas"].as_u64().unwrap()
    }

    /// A pod of a workload, as its controller makes it.
    pub async fn pod(&self, name: &str, app: &str) {
        let container = json!({
            "name": "web", "image": "web", "ports": [{"name": "http", "containerPort": 8080}],
            "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}},
        });
        let pod = json!({
            "metadata": {"name": name, "labels": {"app": app}},
            "spec": {"containers": [container], "nodeName": "node"},
        });
        self.create("Pod", pod).await;
    }

    /// As the kubelet tells it once it runs.
    pub async fn runs(&self, pod: &str, ip: &str, ready: bool) {
        let status = json!({
            "phase": "Running", "podIP": ip,
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
            "containerStatuses": [container_status(json!({"running": {}}), 0, ready)],
        });
        self.status("Pod", pod, status).await;
    }

    /// As the kubelet tells it while its container waits.
    pub async fn waits(&self, pod: &str, reason: &str, message: &str, restarts: u32) {
        let state = json!({"waiting": {"reason": reason, "message": message}});
        let status =
            json!({"phase": "Pending", "containerStatuses": [container_status(state, restarts, false)]});
        self.status("Pod", pod, status).await;
    }

    pub fn asked(&self, verb: &str, resource: &str) -> u64 {
        self.cluster.requests().of(&Filter::any().verb(verb).resource(resource))
    }
}

fn container_status(state: Value, restarts: u32, ready: bool) -> Value {
    let last = json!({"terminated": {"exitCode": 3, "reason": "Error"}});
    json!({
        "name": "web", "image": "web", "imageID": "", "ready": ready, "restartCount": restarts, "state": state,
        "lastState": if restarts > 0 { last } else { json!({}) },
    })
}

pub fn deployment(name: &str, replicas: u32) -> Value {
    json!({
        "metadata": {"name": name, "annotations": {"scaler.dev/scale-to-zero": "10m", "scaler.dev/intercept": "manual"}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "web", "image": "web", "ports": [{"name": "http", "containerPort": 8080}]}]},
            },
        },
    })
}

pub fn service(name: &str, app: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"selector": {"app": app}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    })
}

/// All resources, anew.
pub async fn all(plugin: &DeploymentScaler) -> Vec<Resource> {
    soon(plugin.changes(0)).await.unwrap().resources
}

pub async fn one(plugin: &DeploymentScaler, name: &str) -> Resource {
    all(plugin).await.into_iter().find(|resource| resource.id == id(name)).expect("it is listed")
}

/// Follows the changes until the resource is as wanted.
pub async fn until(plugin: &DeploymentScaler, name: &str, wanted: impl Fn(&Resource) -> bool) -> Resource {
    soon(async {
        let mut cursor = 0;
        loop {
            let changes = plugin.changes(cursor).await.unwrap();
            cursor = changes.cursor;
            if let Some(found) = changes.resources.into_iter().find(|one| one.id == id(name) && wanted(one)) {
                return found;
            }
        }
    })
    .await
}

pub fn request(name: &str, target: Target, version: &Version, record: Record) -> ScaleRequest {
    let (deadline, intercepted_for) = (Duration::from_secs(60), Duration::ZERO);
    let busy = Vec::new();
    ScaleRequest { id: id(name), target, version: version.clone(), record, deadline, intercepted_for, busy }
}

/// Puts it to zero as the autoscaler does.
pub async fn sleep(plugin: &DeploymentScaler, name: &str) -> Result<(), ScaleError> {
    let seen = one(plugin, name).await;
    let fenced = plugin.compare_and_set(&id(name), &seen.version, &record(Phase::Draining, 1)).await?;
    plugin.set_scale(&request(name, Target::Zero, &fenced, record(Phase::Asleep, 1))).await
}

/// Begins a wake as a DLX does.
pub fn wake(
    plugin: &Arc<DeploymentScaler>,
    name: &str,
    version: &Version,
    nonce: u64,
) -> tokio::task::JoinHandle<Result<(), ScaleError>> {
    let request = request(name, Target::AtLeast(1), version, record(Phase::Waking, nonce));
    let plugin = Arc::clone(plugin);
    tokio::spawn(async move { plugin.set_scale(&request).await })
}

/// How a wake ended.
pub async fn ended(wake: tokio::task::JoinHandle<Result<(), ScaleError>>) -> Result<(), ScaleError> {
    soon(wake).await.unwrap()
}
