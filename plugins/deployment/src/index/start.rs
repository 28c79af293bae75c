//! The start of an instance: all watches, and their first lists.

use std::{fmt::Debug, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};
use k8s_openapi::api::{
    autoscaling::v2::HorizontalPodAutoscaler,
    core::v1::{ConfigMap, Namespace, Pod, Service},
    discovery::v1::EndpointSlice,
    networking::v1::{Ingress, NetworkPolicy},
};
use kube::{Api, Resource, core::ApiResource};
use scaler_types::{Result, Role, duration};
use serde::de::DeserializeOwned;
use tokio::{sync::oneshot, task::JoinSet, time::timeout};

use crate::{
    cluster::{self, ClusterApi},
    config::{PluginConfig, WorkloadKind},
    index::{Clock, MissingPodLabel, ObjectChange, ObjectType, ObjectWatch, Project, Store},
    objects::{self, Kind, MANAGED_BY, PORT_REGISTRY, Workload},
};

/// How long the first lists may take in all. A server that does not answer by then is reported to the daemon, which goes on
/// trying; the daemon's start does not hang for it.
const START_TIMEOUT: Duration = Duration::from_secs(45);

/// The result of a start.
pub(crate) struct Started {
    /// All that is known; it is all there is.
    pub(crate) store: Arc<Store>,
    /// The tasks that keep it up to date.
    pub(crate) tasks: JoinSet<()>,
}

/// A first list that is waited for: of what, and with which rights.
type FirstList = (String, &'static str, oneshot::Receiver<Result<(), kube::Error>>);

/// The watches of an instance.
struct Watches<'a> {
    cluster: &'a ClusterApi,
    store: Arc<Store>,
    tasks: JoinSet<()>,
    firsts: Vec<FirstList>,
}

/// Returns when the first lists are in.
///
/// # Errors
///
/// The API does not answer in time, a kind is not there, or a right is missing; the message says which.
pub(crate) async fn start(
    cluster: &ClusterApi,
    config: &Arc<PluginConfig>,
    clock: Clock,
    project: Project,
    missing_pod_label: Option<MissingPodLabel>,
) -> Result<Started> {
    let started = timeout(START_TIMEOUT, list_all(cluster, config, clock, project, missing_pod_label)).await;
    started.map_err(|_| {
        anyhow!("the Kubernetes API did not answer the first lists within {}", duration::short(START_TIMEOUT))
    })?
}

async fn list_all(
    cluster: &ClusterApi,
    config: &Arc<PluginConfig>,
    clock: Clock,
    project: Project,
    missing_pod_label: Option<MissingPodLabel>,
) -> Result<Started> {
    let kinds = workload_kinds(cluster, config).await?;
    let store = Arc::new(Store::new(Arc::clone(config), kinds.clone(), clock, project));
    store.with(|state| state.missing_pod_label = missing_pod_label);
    let namespace = cluster.namespace.as_ref();
    let place =
        namespace.map_or_else(|| "in all namespaces".to_owned(), |name| format!("in namespace {name}"));
    let mut watches = Watches { cluster, store, tasks: JoinSet::new(), firsts: Vec::new() };
    if config.service_ports.is_some() {
        let (api, what) =
            (cluster.in_namespace::<ConfigMap>(&cluster.home), format!("configmaps ({PORT_REGISTRY})"));
        let read = |object: ConfigMap| ObjectChange::PortRegistry(Box::new(object.into()));
        let registry = ObjectWatch::new(api, what, ObjectType::PortRegistry, read).required("list, watch");
        watches.spawn(registry.with_fields(&format!("metadata.name={PORT_REGISTRY}")));
        watches.wait_for_lists(&format!("in namespace {}", cluster.home)).await?;
    }
    for kind in &kinds {
        let of = Arc::clone(kind);
        let read = move |object| ObjectChange::Workload(Box::new(Workload::new(&of, object)));
        let topic = ObjectType::Workloads(kind.index);
        let workloads = ObjectWatch::new(cluster.dynamic(&kind.api), kind.full_name(), topic, read);
        watches.spawn(workloads.required("get, list, watch, patch"));
    }
    let read = |object: Service| ObjectChange::Service(object.into());
    let services = ObjectWatch::new(cluster.api::<Service>(), "services", ObjectType::Services, read);
    watches.spawn(services.required("list, watch"));
    if config.service_ports.is_some() {
        watches.spawn_interception(config);
    }
    watches.spawn_optional(config).await?;
    watches.wait_for_lists(&place).await?;

    if config.role == Role::Dlx {
        // After the workloads: a pod that was alive when a workload's wake had been read is from after it.
        let read = |object: Pod| ObjectChange::Pod(Box::new(object.into()));
        let pods = ObjectWatch::new(cluster.api::<Pod>(), "pods", ObjectType::Pods, read);
        watches.spawn(pods.required("get, list, watch"));
        watches.wait_for_lists(&place).await?;
    }
    Ok(Started { store: watches.store, tasks: watches.tasks })
}

// === impl Watches ===

impl Watches<'_> {
    fn spawn<K>(&mut self, watch: ObjectWatch<K>)
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let (what, verbs) = (watch.what.clone(), watch.verbs.unwrap_or_default());
        self.firsts.push((what, verbs, watch.spawn(&self.store, &mut self.tasks)));
    }

    /// The watches where Services are intercepted.
    fn spawn_interception(&mut self, config: &PluginConfig) {
        let cluster = self.cluster;
        let what = "endpointslices.discovery.k8s.io";
        let read = |object| ObjectChange::Slice(Box::new(objects::Slice::from(object)));
        let slices = ObjectWatch::new(cluster.api::<EndpointSlice>(), what, ObjectType::Slices, read);
        let mut slices = slices.required("list, watch");
        if config.role == Role::Dlx {
            // Only the autoscaler needs to know a Service's other endpoints.
            slices = slices.with_labels(&format!("{}={}", MANAGED_BY.0, MANAGED_BY.1));
        }
        self.spawn(slices);
        if config.role == Role::Autoscaler {
            let what = "networkpolicies.networking.k8s.io";
            let read = |object: NetworkPolicy| ObjectChange::Policy(object.into());
            self.spawn(ObjectWatch::new(cluster.api(), what, ObjectType::Policies, read));
        }
    }

    /// The watches of kinds that exist and are allowed.
    async fn spawn_optional(&mut self, config: &PluginConfig) -> Result<()> {
        let cluster = self.cluster;
        let what = "ingresses.networking.k8s.io";
        let read = |object: Ingress| ObjectChange::Route(ObjectType::Ingresses, object.into());
        self.spawn(ObjectWatch::new(cluster.api(), what, ObjectType::Ingresses, read));

        let read = |object: Namespace| ObjectChange::Namespace(object.into());
        let all = Api::all(cluster.client.clone());
        let mut namespaces = ObjectWatch::new(all, "namespaces", ObjectType::Namespaces, read);
        if let Some(name) = &config.namespace {
            namespaces = namespaces.with_fields(&format!("metadata.name={name}"));
        }
        self.spawn(namespaces);
        if let Some(routes) = find_type(cluster, "gateway.networking.k8s.io", "v1", "HTTPRoute").await? {
            let what = "httproutes.gateway.networking.k8s.io";
            let read = |object| ObjectChange::Route(ObjectType::HttpRoutes, objects::HostRoute::from(object));
            self.spawn(ObjectWatch::new(cluster.dynamic(&routes), what, ObjectType::HttpRoutes, read));
        }
        // Only the autoscaler needs to know other autoscalers.
        if config.role == Role::Autoscaler {
            let what = "horizontalpodautoscalers.autoscaling";
            let read =
                |object: HorizontalPodAutoscaler| ObjectChange::Autoscaler(ObjectType::Hpas, object.into());
            self.spawn(ObjectWatch::new(cluster.api(), what, ObjectType::Hpas, read));
            if let Some(scaled) = find_type(cluster, "keda.sh", "v1alpha1", "ScaledObject").await? {
                let topic = ObjectType::ScaledObjects;
                let read =
                    move |object| ObjectChange::Autoscaler(topic, objects::OtherAutoscaler::from(object));
                let api = cluster.dynamic(&scaled);
                self.spawn(ObjectWatch::new(api, "scaledobjects.keda.sh", topic, read));
            }
        }
        Ok(())
    }

    async fn wait_for_lists(&mut self, place: &str) -> Result<()> {
        for (what, verbs, first) in self.firsts.drain(..) {
            let listed = first.await.with_context(|| format!("the watch of {what} ended"))?;
            listed.map_err(|error| {
                let reason = cluster::describe_error(&error);
                match cluster::is_forbidden(&error) {
                    true => anyhow!(
                        "listing {what} {place}: {reason}; the service account of this daemon needs the verbs {verbs} on \
                         {what} (docs/reference/rights.md)"
                    ),
                    false => anyhow!("listing {what} {place}: {reason}"),
                }
            })?;
        }
        Ok(())
    }
}

/// The managed kinds.
async fn workload_kinds(cluster: &ClusterApi, config: &PluginConfig) -> Result<Vec<Arc<Kind>>> {
    let built_in = |kind: &str, plural: &str| WorkloadKind {
        group: "apps".to_owned(),
        version: "v1".to_owned(),
        kind: kind.to_owned(),
        plural: Some(plural.to_owned()),
        replicas_path: "/spec/replicas".to_owned(),
    };
    let all = [built_in("Deployment", "deployments"), built_in("StatefulSet", "statefulsets")];
    let mut kinds = Vec::new();
    for (index, kind) in all.into_iter().chain(config.workloads.iter().cloned()).enumerate() {
        let WorkloadKind { group, version, kind, plural, replicas_path } = kind;
        let api = match plural {
            Some(plural) => {
                let api_version =
                    if group.is_empty() { version.clone() } else { format!("{group}/{version}") };
                ApiResource { group, version, api_version, kind, plural }
            }
            None => find_type(cluster, &group, &version, &kind).await?.with_context(|| {
                format!("plugins.deployment.workloads: the cluster has no {kind} in {group}/{version}")
            })?,
        };
        kinds.push(Arc::new(Kind { index, api, replicas_path }));
    }
    Ok(kinds)
}

async fn find_type(
    cluster: &ClusterApi,
    group: &str,
    version: &str,
    kind: &str,
) -> Result<Option<ApiResource>> {
    let found = cluster.find(group, version, kind).await;
    found.map_err(|error| {
        anyhow!("looking up {kind} in {group}/{version}: {}", cluster::describe_error(&error))
    })
}
