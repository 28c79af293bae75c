//! Controllers for Deployments, ReplicaSets, StatefulSets and EndpointSlices, as clients of the API.
//!
//! They do what kube-controller-manager does as far as it is visible through the API. Not done: adopting orphans, volume claims,
//! `ControllerRevision` objects, a StatefulSet's `maxUnavailable`, rollout hooks and Events.

mod deployment;
mod endpoint_slice;
mod pods;
mod queue;
mod replica_set;
mod stateful_set;

use std::sync::Arc;

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet, StatefulSet},
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{Api, Client, Resource, api::DeleteParams};
use serde::de::DeserializeOwned;
use tokio::{sync::watch, task::JoinSet};

use self::{
    pods::controller_of,
    queue::{Queue, queue},
};
use crate::cache::{Cache, Change, Key};

/// What ends a reconciliation early; it is tried again.
type Error = kube::Error;

/// Kinds that are listed before anything is done.
const KINDS: usize = 7;

/// Controllers at work, until this is dropped.
pub struct Controllers {
    _tasks: JoinSet<()>,
}

/// What all controllers know.
struct World {
    client: Client,
    deployments: Cache<Deployment>,
    /// By owner's uid.
    replica_sets: Cache<ReplicaSet>,
    stateful_sets: Cache<StatefulSet>,
    /// By owner's uid, and by namespace and label.
    pods: Cache<Pod>,
    /// By namespace and one label of the selector.
    services: Cache<Service>,
    /// By namespace and Service.
    slices: Cache<EndpointSlice>,
    nodes: Cache<Node>,
}

/// The queues for changes.
#[derive(Clone)]
struct Queues {
    deployments: Queue,
    replica_sets: Queue,
    stateful_sets: Queue,
    services: Queue,
}

// === impl Controllers ===

impl Controllers {
    /// Starts them. What they find is worked on once everything was listed.
    pub fn start(client: Client) -> Self {
        let world = Arc::new(World::new(client));
        let (deployments, deployment_keys) = queue();
        let (replica_sets, replica_set_keys) = queue();
        let (stateful_sets, stateful_set_keys) = queue();
        let (services, service_keys) = queue();
        let queues = Queues { deployments, replica_sets, stateful_sets, services };
        let mut tasks = JoinSet::new();
        let (listed, all_listed) = watch::channel(0_usize);
        let client = &world.client;
        follow(&mut tasks, &world.deployments, client, &listed, queues.of_deployments());
        follow(&mut tasks, &world.replica_sets, client, &listed, queues.of_replica_sets());
        follow(&mut tasks, &world.stateful_sets, client, &listed, queues.of_stateful_sets());
        follow(&mut tasks, &world.pods, client, &listed, queues.of_pods(&world));
        follow(&mut tasks, &world.services, client, &listed, queues.of_services());
        follow(&mut tasks, &world.slices, client, &listed, queues.of_slices());
        // A node has its zone before it has pods.
        follow(&mut tasks, &world.nodes, client, &listed, |_| {});
        macro_rules! work {
            ($keys:expr, $reconcile:path) => {{
                let (world, mut all_listed) = (Arc::clone(&world), all_listed.clone());
                tasks.spawn(async move {
                    if all_listed.wait_for(|listed| *listed >= KINDS).await.is_ok() {
                        $keys.work(move |key| $reconcile(Arc::clone(&world), key)).await;
                    }
                });
            }};
        }
        work!(deployment_keys, deployment::reconcile);
        work!(replica_set_keys, replica_set::reconcile);
        work!(stateful_set_keys, stateful_set::reconcile);
        work!(service_keys, endpoint_slice::reconcile);
        Self { _tasks: tasks }
    }
}

fn follow<K>(
    tasks: &mut JoinSet<()>,
    cache: &Cache<K>,
    client: &Client,
    listed: &watch::Sender<usize>,
    changed: impl Fn(Change<K>) + Send + 'static,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    let (listed, first) = (listed.clone(), std::sync::Once::new());
    let listed = move || first.call_once(|| listed.send_modify(|kinds| *kinds += 1));
    tasks.spawn(cache.clone().follow(Api::all(client.clone()), changed, listed));
}

// === impl World ===

impl World {
    fn new(client: Client) -> Self {
        Self {
            client,
            deployments: Cache::new(|_| Vec::new()),
            replica_sets: Cache::new(|set| owner_uid(&set.metadata)),
            stateful_sets: Cache::new(|_| Vec::new()),
            pods: Cache::new(|pod| {
                let mut words = owner_uid(&pod.metadata);
                words.extend(label_words(&pod.metadata));
                words
            }),
            services: Cache::new(|service| endpoint_slice::selector_word(service).into_iter().collect()),
            slices: Cache::new(|slice| {
                endpoint_slice::service_of(slice).into_iter().map(|key| word_of(&key)).collect()
            }),
            nodes: Cache::new(|_| Vec::new()),
        }
    }

    fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    async fn create_pod(&self, pod: Pod) -> Result<(), Error> {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let made = self.api::<Pod>(&namespace).create(&Default::default(), &pod).await?;
        self.pods.wrote(made);
        Ok(())
    }

    /// Deletes a pod, if it is still that one.
    async fn delete_pod(&self, pod: &Pod) -> Result<(), Error> {
        let key = Key::of(pod);
        let this = kube::api::Preconditions { uid: pod.metadata.uid.clone(), ..Default::default() };
        let how = DeleteParams { preconditions: Some(this), ..Default::default() };
        match self.api::<Pod>(&key.namespace).delete(&key.name, &how).await {
            Ok(answer) => match answer.left() {
                Some(ending) => self.pods.wrote(ending),
                None => self.pods.removed(pod),
            },
            Err(kube::Error::Api(refused)) if refused.code == 404 => self.pods.removed(pod),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The pods that `uid` controls.
    fn pods_of(&self, uid: &str) -> Vec<Arc<Pod>> {
        self.pods.find(uid)
    }
}

// === impl Queues ===

impl Queues {
    fn of_deployments(&self) -> impl Fn(Change<Deployment>) + use<> {
        let queue = self.deployments.clone();
        move |change| queue.add(Key::of(change.any()))
    }

    fn of_replica_sets(&self) -> impl Fn(Change<ReplicaSet>) + use<> {
        let queues = self.clone();
        move |change| {
            let set = change.any();
            queues.replica_sets.add(Key::of(set));
            if let Some(owner) = controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment") {
                queues.deployments.add(Key::beside(set, &owner.name));
            }
        }
    }

    fn of_stateful_sets(&self) -> impl Fn(Change<StatefulSet>) + use<> {
        let queue = self.stateful_sets.clone();
        move |change| queue.add(Key::of(change.any()))
    }

    fn of_pods(&self, world: &Arc<World>) -> impl Fn(Change<Pod>) + use<> {
        let (queues, world) = (self.clone(), Arc::clone(world));
        move |change| {
            let pod = change.any();
            match controller_of(&pod.metadata)
                .map(|owner| (owner.kind.as_str(), Key::beside(pod, &owner.name)))
            {
                Some(("ReplicaSet", key)) => {
                    // A Deployment that recreates waits for its last pod to go.
                    if change.new.is_none()
                        && let Some(set) = world.replica_sets.get(&key)
                        && let Some(owner) = controller_of(&set.metadata)
                    {
                        queues.deployments.add(Key::beside(pod, &owner.name));
                    }
                    queues.replica_sets.add(key);
                }
                Some(("StatefulSet", key)) => queues.stateful_sets.add(key),
                _ => {}
            }
            for side in change.sides() {
                for service in endpoint_slice::services_of(&world, side) {
                    queues.services.add(Key::of(&*service));
                }
            }
        }
    }

    fn of_services(&self) -> impl Fn(Change<Service>) + use<> {
        let queue = self.services.clone();
        move |change| queue.add(Key::of(change.any()))
    }

    fn of_slices(&self) -> impl Fn(Change<EndpointSlice>) + use<> {
        let queue = self.services.clone();
        move |change| {
            if let Some(key) = endpoint_slice::service_of(change.any()) {
                queue.add(key);
            }
        }
    }
}

fn owner_uid(meta: &kube::api::ObjectMeta) -> Vec<String> {
    controller_of(meta).map(|owner| owner.uid.clone()).into_iter().collect()
}

/// How a label is found in an index.
fn label_word(namespace: &str, key: &str, value: &str) -> String {
    format!("{namespace}/{key}={value}")
}

fn label_words(meta: &kube::api::ObjectMeta) -> impl Iterator<Item = String> + '_ {
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    meta.labels.iter().flatten().map(move |(key, value)| label_word(namespace, key, value))
}

fn word_of(key: &Key) -> String {
    format!("{}/{}", key.namespace, key.name)
}
