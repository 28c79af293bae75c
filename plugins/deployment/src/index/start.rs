//! An instance's start: the cluster is reached, and what there is is known.

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
    cluster::{self, Cluster},
    config::{Config, WorkloadKind},
    index::{Change, Clock, Feed, Project, Store, Topic, Unlabelled, spawn},
    objects::{self, Kind, MANAGED_BY, PORT_REGISTRY, Workload},
};

/// How long the first lists may take in all. A server that does not answer by then is told to the daemon, which goes on
/// trying; the daemon's start does not hang for it.
const WITHIN: Duration = Duration::from_secs(45);

/// What a start gives.
pub struct Started {
    /// All that is known; it is all there is.
    pub store: Arc<Store>,
    /// What keeps it so.
    pub tasks: JoinSet<()>,
}

/// A first list that is waited for: of what, and with which rights.
type First = (String, &'static str, oneshot::Receiver<Result<(), kube::Error>>);

/// Returns when the first lists are in.
///
/// # Errors
///
/// The API does not answer in time, a kind is not there, or a right is missing; the message says which.
pub async fn start(
    cluster: &Cluster,
    config: &Arc<Config>,
    clock: Clock,
    project: Project,
    unlabelled: Option<Unlabelled>,
) -> Result<Started> {
    let started = timeout(WITHIN, list_all(cluster, config, clock, project, unlabelled)).await;
    started.map_err(|_| {
        anyhow!("the cluster's API did not give its first lists within {}", duration::short(WITHIN))
    })?
}

async fn list_all(
    cluster: &Cluster,
    config: &Arc<Config>,
    clock: Clock,
    project: Project,
    unlabelled: Option<Unlabelled>,
) -> Result<Started> {
    let kinds = kinds(cluster, config).await?;
    let store = Arc::new(Store::new(Arc::clone(config), kinds.clone(), clock, project));
    store.with(|state| state.unlabelled = unlabelled);
    let namespace = cluster.namespace.as_ref();
    let place =
        namespace.map_or_else(|| "in all namespaces".to_owned(), |name| format!("in namespace {name}"));
    let mut tasks = JoinSet::new();
    let mut firsts: Vec<First> = Vec::new();

    for kind in &kinds {
        let of = Arc::clone(kind);
        let feed = Feed {
            api: cluster.dynamic(&kind.api),
            what: kind.full_name(),
            topic: Topic::Workloads(kind.index),
            fields: None,
            labels: None,
            optional: false,
            read: Arc::new(move |object| Change::Workload(Box::new(Workload::new(&of, object)))),
        };
        firsts.push((
            kind.full_name(),
            "get, list, watch, patch",
            spawn(feed, Arc::clone(&store), &mut tasks),
        ));
    }
    let services = Feed {
        api: cluster.api::<Service>(),
        what: "services".to_owned(),
        topic: Topic::Services,
        fields: None,
        labels: None,
        optional: false,
        read: Arc::new(|object| Change::Service(object.into())),
    };
    firsts.push(("services".to_owned(), "list, watch", spawn(services, Arc::clone(&store), &mut tasks)));
    if config.service_ports.is_some() {
        firsts.extend(routing(cluster, config, &store, &mut tasks).await?);
    }
    firsts.extend(optional(cluster, config, &store, &mut tasks).await?);
    all_in(&place, firsts).await?;

    if config.role == Role::Dlx {
        // After the workloads: a pod that was alive when a workload's wake had been read is from after it.
        let pods = Feed {
            api: cluster.api::<Pod>(),
            what: "pods".to_owned(),
            topic: Topic::Pods,
            fields: None,
            labels: None,
            optional: false,
            read: Arc::new(|object: Pod| Change::Pod(Box::new(object.into()))),
        };
        let first = spawn(pods, Arc::clone(&store), &mut tasks);
        all_in(&place, vec![("pods".to_owned(), "get, list, watch", first)]).await?;
    }
    Ok(Started { store, tasks })
}

/// What is watched where Services are led.
async fn routing(
    cluster: &Cluster,
    config: &Config,
    store: &Arc<Store>,
    tasks: &mut JoinSet<()>,
) -> Result<Vec<First>> {
    let registry = Feed {
        api: cluster.in_namespace::<ConfigMap>(&cluster.home),
        what: "configmaps".to_owned(),
        topic: Topic::Registry,
        fields: Some(format!("metadata.name={}", PORT_REGISTRY)),
        labels: None,
        optional: false,
        read: Arc::new(|object: ConfigMap| Change::Registry(Box::new(object.into()))),
    };
    let first = spawn(registry, Arc::clone(store), tasks);
    let what = format!("configmaps ({})", PORT_REGISTRY);
    all_in(&format!("in namespace {}", cluster.home), vec![(what, "list, watch", first)]).await?;

    let mut firsts = Vec::new();
    let slices = Feed {
        api: cluster.api::<EndpointSlice>(),
        what: "endpointslices.discovery.k8s.io".to_owned(),
        topic: Topic::Slices,
        fields: None,
        // Who else takes a Service's requests matters to who changes that.
        labels: (config.role == Role::Dlx).then(|| format!("{}={}", MANAGED_BY.0, MANAGED_BY.1)),
        optional: false,
        read: Arc::new(|object| Change::Slice(Box::new(objects::Slice::from(object)))),
    };
    firsts.push((slices.what.clone(), "list, watch", spawn(slices, Arc::clone(store), tasks)));
    if config.role == Role::Autoscaler {
        let policies = Feed {
            api: cluster.api::<NetworkPolicy>(),
            what: "networkpolicies.networking.k8s.io".to_owned(),
            topic: Topic::Policies,
            fields: None,
            labels: None,
            optional: true,
            read: Arc::new(|object: NetworkPolicy| Change::Policy(object.into())),
        };
        firsts.push((policies.what.clone(), "list, watch", spawn(policies, Arc::clone(store), tasks)));
    }
    Ok(firsts)
}

/// What is watched where it is there and allowed.
async fn optional(
    cluster: &Cluster,
    config: &Config,
    store: &Arc<Store>,
    tasks: &mut JoinSet<()>,
) -> Result<Vec<First>> {
    let mut firsts = Vec::new();
    let ingresses = Feed {
        api: cluster.api::<Ingress>(),
        what: "ingresses.networking.k8s.io".to_owned(),
        topic: Topic::Ingresses,
        fields: None,
        labels: None,
        optional: true,
        read: Arc::new(|object| Change::Route(Topic::Ingresses, object.into())),
    };
    firsts.push((ingresses.what.clone(), "list, watch", spawn(ingresses, Arc::clone(store), tasks)));
    let namespaces = Feed {
        api: Api::<Namespace>::all(cluster.client.clone()),
        what: "namespaces".to_owned(),
        topic: Topic::Namespaces,
        fields: config.namespace.as_ref().map(|name| format!("metadata.name={name}")),
        labels: None,
        optional: true,
        read: Arc::new(|object| Change::Namespace(object.into())),
    };
    firsts.push((namespaces.what.clone(), "list, watch", spawn(namespaces, Arc::clone(store), tasks)));
    if let Some(routes) = find(cluster, "gateway.networking.k8s.io", "v1", "HTTPRoute").await? {
        let feed = Feed {
            api: cluster.dynamic(&routes),
            what: "httproutes.gateway.networking.k8s.io".to_owned(),
            topic: Topic::HttpRoutes,
            fields: None,
            labels: None,
            optional: true,
            read: Arc::new(|object| Change::Route(Topic::HttpRoutes, objects::Route::from(object))),
        };
        firsts.push((feed.what.clone(), "list, watch", spawn(feed, Arc::clone(store), tasks)));
    }
    // Who else scales matters to who puts to sleep.
    if config.role == Role::Autoscaler {
        let hpas = Feed {
            api: cluster.api::<HorizontalPodAutoscaler>(),
            what: "horizontalpodautoscalers.autoscaling".to_owned(),
            topic: Topic::Hpas,
            fields: None,
            labels: None,
            optional: true,
            read: Arc::new(|object| Change::Scaler(Topic::Hpas, object.into())),
        };
        firsts.push((hpas.what.clone(), "list, watch", spawn(hpas, Arc::clone(store), tasks)));
        if let Some(objects) = find(cluster, "keda.sh", "v1alpha1", "ScaledObject").await? {
            let feed = Feed {
                api: cluster.dynamic(&objects),
                what: "scaledobjects.keda.sh".to_owned(),
                topic: Topic::ScaledObjects,
                fields: None,
                labels: None,
                optional: true,
                read: Arc::new(|object| Change::Scaler(Topic::ScaledObjects, objects::Scaler::from(object))),
            };
            firsts.push((feed.what.clone(), "list, watch", spawn(feed, Arc::clone(store), tasks)));
        }
    }
    Ok(firsts)
}

async fn all_in(place: &str, firsts: Vec<First>) -> Result<()> {
    for (what, verbs, first) in firsts {
        let listed = first.await.with_context(|| format!("the watch of {what} ended"))?;
        listed.map_err(|error| {
            let told = cluster::told(&error);
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

/// The kinds that are looked after.
async fn kinds(cluster: &Cluster, config: &Config) -> Result<Vec<Arc<Kind>>> {
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
            None => find(cluster, &group, &version, &kind).await?.with_context(|| {
                format!("plugins.deployment.workloads: the cluster has no {kind} in {group}/{version}")
            })?,
        };
        kinds.push(Arc::new(Kind { index, api, replicas_path }));
    }
    Ok(kinds)
}

async fn find(cluster: &Cluster, group: &str, version: &str, kind: &str) -> Result<Option<ApiResource>> {
    let found = cluster.find(group, version, kind).await;
    found.map_err(|error| {
        anyhow!("asking the cluster for {kind} in {group}/{version}: {}", cluster::told(&error))
    })
}
