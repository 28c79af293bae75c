//! The start of an instance: all watches, and their first lists.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};
use k8s_openapi::api::{
    autoscaling::v2::HorizontalPodAutoscaler,
    core::v1::{ConfigMap, Namespace, Pod, Service},
    discovery::v1::EndpointSlice,
    networking::v1::{Ingress, NetworkPolicy},
};
use kube::{Api, core::ApiResource};
use scaler_types::{Result, Role, duration};
use tokio::{sync::oneshot, task::JoinSet, time::timeout};

use crate::{
    cluster::{self, ClusterApi},
    config::{PluginConfig, WorkloadKind},
    index::{Clock, MissingPodLabel, ObjectChange, ObjectType, ObjectWatch, Project, Store, spawn},
    objects::{self, Kind, MANAGED_BY, PORT_REGISTRY, Workload},
};

/// How long the first lists may take in all. A server that does not answer by then is reported to the daemon, which goes on
/// trying; the daemon's start does not hang for it.
const START_TIMEOUT: Duration = Duration::from_secs(45);

/// What a start gives.
pub(crate) struct Started {
    /// All that is known; it is all there is.
    pub(crate) store: Arc<Store>,
    /// What keeps it so.
    pub(crate) tasks: JoinSet<()>,
}

/// A first list that is waited for: of what, and with which rights.
type First = (String, &'static str, oneshot::Receiver<Result<(), kube::Error>>);

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
    let mut tasks = JoinSet::new();
    let mut firsts: Vec<First> = Vec::new();

    for kind in &kinds {
        let of = Arc::clone(kind);
        let feed = ObjectWatch {
            api: cluster.dynamic(&kind.api),
            what: kind.full_name(),
            topic: ObjectType::Workloads(kind.index),
            fields: None,
            labels: None,
            optional: false,
            read: Arc::new(move |object| ObjectChange::Workload(Box::new(Workload::new(&of, object)))),
        };
        firsts.push((
            kind.full_name(),
            "get, list, watch, patch",
            spawn(feed, Arc::clone(&store), &mut tasks),
        ));
    }
    let services = ObjectWatch {
        api: cluster.api::<Service>(),
        what: "services".to_owned(),
        topic: ObjectType::Services,
        fields: None,
        labels: None,
        optional: false,
        read: Arc::new(|object| ObjectChange::Service(object.into())),
    };
    firsts.push(("services".to_owned(), "list, watch", spawn(services, Arc::clone(&store), &mut tasks)));
    if config.service_ports.is_some() {
        firsts.extend(watch_interception(cluster, config, &store, &mut tasks).await?);
    }
    firsts.extend(watch_optional(cluster, config, &store, &mut tasks).await?);
    wait_for_lists(&place, firsts).await?;

    if config.role == Role::Dlx {
        // After the workloads: a pod that was alive when a workload's wake had been read is from after it.
        let pods = ObjectWatch {
            api: cluster.api::<Pod>(),
            what: "pods".to_owned(),
            topic: ObjectType::Pods,
            fields: None,
            labels: None,
            optional: false,
            read: Arc::new(|object: Pod| ObjectChange::Pod(Box::new(object.into()))),
        };
        let first = spawn(pods, Arc::clone(&store), &mut tasks);
        wait_for_lists(&place, vec![("pods".to_owned(), "get, list, watch", first)]).await?;
    }
    Ok(Started { store, tasks })
}

/// What is watched where Services are intercepted.
async fn watch_interception(
    cluster: &ClusterApi,
    config: &PluginConfig,
    store: &Arc<Store>,
    tasks: &mut JoinSet<()>,
) -> Result<Vec<First>> {
    let registry = ObjectWatch {
        api: cluster.in_namespace::<ConfigMap>(&cluster.home),
        what: "configmaps".to_owned(),
        topic: ObjectType::PortRegistry,
        fields: Some(format!("metadata.name={}", PORT_REGISTRY)),
        labels: None,
        optional: false,
        read: Arc::new(|object: ConfigMap| ObjectChange::PortRegistry(Box::new(object.into()))),
    };
    let first = spawn(registry, Arc::clone(store), tasks);
    let what = format!("configmaps ({})", PORT_REGISTRY);
    wait_for_lists(&format!("in namespace {}", cluster.home), vec![(what, "list, watch", first)]).await?;

    let mut firsts = Vec::new();
    let slices = ObjectWatch {
        api: cluster.api::<EndpointSlice>(),
        what: "endpointslices.discovery.k8s.io".to_owned(),
        topic: ObjectType::Slices,
        fields: None,
        // Only the autoscaler needs to know a Service's other endpoints.
        labels: (config.role == Role::Dlx).then(|| format!("{}={}", MANAGED_BY.0, MANAGED_BY.1)),
        optional: false,
        read: Arc::new(|object| ObjectChange::Slice(Box::new(objects::Slice::from(object)))),
    };
    firsts.push((slices.what.clone(), "list, watch", spawn(slices, Arc::clone(store), tasks)));
    if config.role == Role::Autoscaler {
        let policies = ObjectWatch {
            api: cluster.api::<NetworkPolicy>(),
            what: "networkpolicies.networking.k8s.io".to_owned(),
            topic: ObjectType::Policies,
            fields: None,
            labels: None,
            optional: true,
            read: Arc::new(|object: NetworkPolicy| ObjectChange::Policy(object.into())),
        };
        firsts.push((policies.what.clone(), "list, watch", spawn(policies, Arc::clone(store), tasks)));
    }
    Ok(firsts)
}

/// What is watched where it is there and allowed.
async fn watch_optional(
    cluster: &ClusterApi,
    config: &PluginConfig,
    store: &Arc<Store>,
    tasks: &mut JoinSet<()>,
) -> Result<Vec<First>> {
    let mut firsts = Vec::new();
    let ingresses = ObjectWatch {
        api: cluster.api::<Ingress>(),
        what: "ingresses.networking.k8s.io".to_owned(),
        topic: ObjectType::Ingresses,
        fields: None,
        labels: None,
        optional: true,
        read: Arc::new(|object| ObjectChange::Route(ObjectType::Ingresses, object.into())),
    };
    firsts.push((ingresses.what.clone(), "list, watch", spawn(ingresses, Arc::clone(store), tasks)));
    let namespaces = ObjectWatch {
        api: Api::<Namespace>::all(cluster.client.clone()),
        what: "namespaces".to_owned(),
        topic: ObjectType::Namespaces,
        fields: config.namespace.as_ref().map(|name| format!("metadata.name={name}")),
        labels: None,
        optional: true,
        read: Arc::new(|object| ObjectChange::Namespace(object.into())),
    };
    firsts.push((namespaces.what.clone(), "list, watch", spawn(namespaces, Arc::clone(store), tasks)));
    if let Some(routes) = find_type(cluster, "gateway.networking.k8s.io", "v1", "HTTPRoute").await? {
        let feed = ObjectWatch {
            api: cluster.dynamic(&routes),
            what: "httproutes.gateway.networking.k8s.io".to_owned(),
            topic: ObjectType::HttpRoutes,
            fields: None,
            labels: None,
            optional: true,
            read: Arc::new(|object| {
                ObjectChange::Route(ObjectType::HttpRoutes, objects::HostRoute::from(object))
            }),
        };
        firsts.push((feed.what.clone(), "list, watch", spawn(feed, Arc::clone(store), tasks)));
    }
    // Only the autoscaler needs to know other autoscalers.
    if config.role == Role::Autoscaler {
        let hpas = ObjectWatch {
            api: cluster.api::<HorizontalPodAutoscaler>(),
            what: "horizontalpodautoscalers.autoscaling".to_owned(),
            topic: ObjectType::Hpas,
            fields: None,
            labels: None,
            optional: true,
            read: Arc::new(|object| ObjectChange::Autoscaler(ObjectType::Hpas, object.into())),
        };
        firsts.push((hpas.what.clone(), "list, watch", spawn(hpas, Arc::clone(store), tasks)));
        if let Some(objects) = find_type(cluster, "keda.sh", "v1alpha1", "ScaledObject").await? {
            let feed = ObjectWatch {
                api: cluster.dynamic(&objects),
                what: "scaledobjects.keda.sh".to_owned(),
                topic: ObjectType::ScaledObjects,
                fields: None,
                labels: None,
                optional: true,
                read: Arc::new(|object| {
                    ObjectChange::Autoscaler(
                        ObjectType::ScaledObjects,
                        objects::OtherAutoscaler::from(object),
                    )
                }),
            };
            firsts.push((feed.what.clone(), "list, watch", spawn(feed, Arc::clone(store), tasks)));
        }
    }
    Ok(firsts)
}

async fn wait_for_lists(place: &str, firsts: Vec<First>) -> Result<()> {
    for (what, verbs, first) in firsts {
        let listed = first.await.with_context(|| format!("the watch of {what} ended"))?;
        listed.map_err(|error| {
            let told = cluster::describe_error(&error);
            match cluster::is_forbidden(&error) {
                true => anyhow!(
                    "listing {what} {place}: {told}; the service account of this daemon needs the verbs {verbs} on \
                     {what} (plugins/deployment/README.md, Rights)"
                ),
                false => anyhow!("listing {what} {place}: {told}"),
            }
        })?;
    }
    Ok(())
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
