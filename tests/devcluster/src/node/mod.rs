//! A node: it runs pods as processes of this machine and reports them to the API as a kubelet does.
//!
//! | in a cluster | here |
//! |---|---|
//! | image `devcluster/hello:v2` | the program `hello` in [`NodeOptions::programs`]; any other image is not to be had |
//! | a pod's network | an address of 10.244.0.0/16, in `POD_IP`; processes listen there (see [`crate::netns`]). With [`NodeOptions::dual_stack`] one of fd00:10:244:: as well |
//! | a mount path | wherever it stands in the command, its arguments or the environment's values, the real folder takes its place |
//! | the service account's token | a kubeconfig, in `KUBECONFIG` |
//! | scheduler | one node, which takes as many pods as a test says |
//!
//! Volumes are emptyDir, configMap, secret, downwardAPI and projected. A process's memory and time are not limited.

mod addresses;
mod backoff;
mod config;
mod container;
mod ending;
mod environment;
mod options;
mod pod;
mod probe;
mod process;
mod schedule;
mod status;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, Result};
use k8s_openapi::api::{
    authentication::v1::TokenRequest,
    core::v1::{Node as NodeObject, Pod, ServiceAccount},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

pub use options::{NodeFaults, NodeOptions};

use self::{
    addresses::Addresses,
    config::{Config, Missing, account_of},
    pod::Seen,
    process::Processes,
    schedule::News,
};
use crate::cache::{Cache, Change, Key, rest};

/// The node's own address, as pods' statuses have it.
const HOST_ADDRESS: &str = "127.0.0.1";

/// A running node. Dropped, its processes are killed and its folder is removed.
pub struct Node {
    shared: Arc<Shared>,
    news: mpsc::UnboundedSender<News>,
    tasks: JoinSet<()>,
    _temporary: Option<tempfile::TempDir>,
}

/// What the node's parts share.
struct Shared {
    options: NodeOptions,
    client: Client,
    config: Config,
    processes: Processes,
    folder: PathBuf,
    state: Mutex<State>,
}

struct State {
    capacity: usize,
    faults: NodeFaults,
    addresses: Addresses,
    pulled: HashSet<String>,
    /// By namespace and pod: containers and their process ids.
    running: HashMap<Key, BTreeMap<String, u32>>,
}

// === impl Node ===

impl Node {
    /// Registers the node and starts working.
    ///
    /// # Errors
    ///
    /// The Node object cannot be written, or the folder cannot be made.
    pub async fn start(client: Client, mut options: NodeOptions) -> Result<Self> {
        // Processes start in folders of their own.
        options.programs = std::path::absolute(&options.programs)?;
        let temporary = match &options.folder {
            Some(_) => None,
            None => Some(tempfile::tempdir().context("making a folder for the node's volumes and logs")?),
        };
        let folder = options.folder.clone().or_else(|| temporary.as_ref().map(|made| made.path().to_owned()));
        let folder = std::path::absolute(folder.unwrap_or_default())?;
        fs::create_dir_all(&folder).with_context(|| format!("making the folder {}", folder.display()))?;
        let shared = Arc::new(Shared {
            config: Config {
                config_maps: Cache::new(|_| Vec::new()),
                secrets: Cache::new(|_| Vec::new()),
                changed: watch::channel(0).0,
            },
            processes: Processes::new().context("starting the thread that starts processes")?,
            state: Mutex::new(State {
                capacity: options.capacity,
                faults: NodeFaults::default(),
                addresses: Addresses::default(),
                pulled: HashSet::new(),
                running: HashMap::new(),
            }),
            client: client.clone(),
            folder,
            options,
        });
        shared.register().await.context("writing the Node object")?;
        let mut tasks = JoinSet::new();
        let (news, receiver) = mpsc::unbounded_channel();
        tasks.spawn(schedule::run(Arc::clone(&shared), receiver));
        let bump = |node: &Arc<Shared>| {
            let node = Arc::clone(node);
            move || node.config.changed.send_modify(|changes| *changes += 1)
        };
        let (maps, secrets) = (shared.config.config_maps.clone(), shared.config.secrets.clone());
        let changed = bump(&shared);
        tasks.spawn(maps.follow(Api::all(client.clone()), move |_| changed(), bump(&shared)));
        let changed = bump(&shared);
        tasks.spawn(secrets.follow(Api::all(client.clone()), move |_| changed(), bump(&shared)));
        let (pods, changes) = mpsc::unbounded_channel();
        let scheduler = news.clone();
        let follow = Cache::<Pod>::new(|_| Vec::new()).follow(
            Api::all(client),
            move |change| {
                // Both end with the node.
                let _ = pods.send(Change { old: change.old.clone(), new: change.new.clone() });
                let _ = scheduler.send(News::Pod(change));
            },
            || {},
        );
        tasks.spawn(follow);
        tasks.spawn(work(Arc::clone(&shared), changes));
        Ok(Self { shared, news, tasks, _temporary: temporary })
    }

    /// The process id of a pod's first container that runs (by name).
    pub fn process(&self, namespace: &str, pod: &str) -> Option<u32> {
        self.processes(namespace, pod).into_values().next()
    }

    /// The process ids of a pod's containers that run.
    pub fn processes(&self, namespace: &str, pod: &str) -> BTreeMap<String, u32> {
        let key = Key { namespace: namespace.to_owned(), name: pod.to_owned() };
        self.shared.lock().running.get(&key).cloned().unwrap_or_default()
    }

    /// What a container has written, in all its runs.
    pub fn log(&self, namespace: &str, pod: &str, container: &str) -> String {
        let path = log_path(&self.shared.folder, namespace, pod, container);
        fs::read(path).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
    }

    /// Orders faults; they hold for what begins from now on.
    pub fn set_faults(&self, faults: NodeFaults) {
        self.shared.lock().faults = faults;
    }

    /// How many pods the node takes from now on. Those it has stay.
    pub fn set_capacity(&self, pods: usize) {
        self.shared.lock().capacity = pods;
        let _ = self.news.send(News::Capacity);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.tasks.abort_all();
        self.shared.processes.close();
    }
}

/// Gives each pod of this node a task, and each task the news of its pod.
async fn work(node: Arc<Shared>, mut changes: mpsc::UnboundedReceiver<Change<Pod>>) {
    let mut workers: HashMap<String, watch::Sender<Seen>> = HashMap::new();
    let mut tasks = JoinSet::new();
    loop {
        let change = tokio::select! {
            change = changes.recv() => match change { Some(change) => change, None => return },
            Some(_) = tasks.join_next() => continue,
        };
        let uid = change.any().metadata.uid.clone().unwrap_or_default();
        match change.new {
            None => {
                // Its task goes on until the processes have ended.
                if let Some(worker) = workers.remove(&uid) {
                    worker.send_modify(|seen| seen.gone = true);
                }
            }
            Some(pod) => {
                let ours = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
                if ours != Some(&node.options.name) {
                    continue;
                }
                if let Some(worker) = workers.get(&uid) {
                    worker.send_modify(|seen| seen.pod = pod);
                } else {
                    let (sender, seen) = watch::channel(Seen { pod, gone: false });
                    workers.insert(uid, sender);
                    tasks.spawn(pod::run(Arc::clone(&node), seen));
                }
            }
        }
    }
}

// === impl Shared ===

impl Shared {
    async fn register(&self) -> Result<()> {
        let nodes: Api<NodeObject> = Api::all(self.client.clone());
        let object: NodeObject = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": self.options.name, "labels": self.labels()},
        }))?;
        match nodes.create(&PostParams::default(), &object).await {
            Ok(_) => {}
            Err(kube::Error::Api(refused)) if refused.code == 409 => {}
            Err(error) => return Err(error.into()),
        }
        let resources = json!({"pods": self.capacity().to_string(), "cpu": "2", "memory": "4Gi"});
        let status = json!({"status": {
            "capacity": resources, "allocatable": resources,
            "addresses": [{"type": "InternalIP", "address": HOST_ADDRESS}, {"type": "Hostname", "address": self.options.name}],
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status",
                "lastHeartbeatTime": status::now(), "lastTransitionTime": status::now(),
            }],
        }});
        nodes.patch_status(&self.options.name, &PatchParams::default(), &Patch::Merge(&status)).await?;
        Ok(())
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let own = [
            ("kubernetes.io/hostname", self.options.name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }),
        ];
        let own = own.map(|(key, value)| (key.to_owned(), value.to_owned()));
        own.into_iter().chain(self.options.labels.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn faults(&self) -> NodeFaults {
        self.lock().faults
    }

    fn capacity(&self) -> usize {
        self.lock().capacity
    }

    fn pulled(&self, image: &str) -> bool {
        self.lock().pulled.contains(image)
    }

    fn pulled_now(&self, image: &str) {
        self.lock().pulled.insert(image.to_owned());
    }

    fn started(&self, pod: &Pod, container: &str, process: u32) {
        self.lock().running.entry(Key::of(pod)).or_default().insert(container.to_owned(), process);
    }

    fn ended(&self, pod: &Pod, container: &str) {
        let mut state = self.lock();
        let key = Key::of(pod);
        if let Some(containers) = state.running.get_mut(&key) {
            containers.remove(container);
            if containers.is_empty() {
                state.running.remove(&key);
            }
        }
    }

    /// All addresses of a pod, by its first.
    fn addresses(&self, first: &str) -> Vec<String> {
        let second = first.parse().ok().filter(|_| self.options.dual_stack).map(addresses::second);
        [first.to_owned()].into_iter().chain(second.map(|second| second.to_string())).collect()
    }

    fn pods_of(&self, pod: &Pod) -> Api<Pod> {
        Api::namespaced(self.client.clone(), pod.metadata.namespace.as_deref().unwrap_or_default())
    }

    /// Whether the API still has this very pod.
    async fn is_there(&self, pod: &Pod) -> bool {
        match self.pods_of(pod).get(pod.metadata.name.as_deref().unwrap_or_default()).await {
            Ok(found) => found.metadata.uid == pod.metadata.uid,
            Err(kube::Error::Api(refused)) => refused.code != 404,
            Err(_) => true,
        }
    }

    fn folder_of(&self, pod: &Pod) -> PathBuf {
        self.folder.join("pods").join(pod.metadata.uid.as_deref().unwrap_or_default())
    }

    fn log(&self, pod: &Pod, container: &str) -> PathBuf {
        let key = Key::of(pod);
        log_path(&self.folder, &key.namespace, &key.name, container)
    }

    /// Environment that every process gets, whatever its container says.
    fn base_environment(&self, pod: &Pod, address: &str) -> BTreeMap<String, String> {
        let inherited = ["PATH", "RUST_BACKTRACE"];
        let mut all: BTreeMap<_, _> = inherited
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)))
            .collect();
        let authority = self.options.server.split("://").last().unwrap_or_default();
        let (host, port) = authority.trim_end_matches('/').rsplit_once(':').unwrap_or((authority, "80"));
        all.insert("HOSTNAME".into(), pod.metadata.name.clone().unwrap_or_default());
        all.insert("POD_IP".into(), address.to_owned());
        all.insert("KUBERNETES_SERVICE_HOST".into(), host.to_owned());
        all.insert("KUBERNETES_SERVICE_PORT".into(), port.to_owned());
        if wants_token(pod) {
            let path = self.folder_of(pod).join("kubeconfig");
            all.insert("KUBECONFIG".into(), path.to_string_lossy().into_owned());
        }
        all.extend(self.options.environment.iter().cloned());
        all
    }

    /// A token of the pod's service account.
    async fn token(&self, pod: &Pod) -> String {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": []}});
        let mut pause = pod::PAUSE.0;
        loop {
            let answer: kube::Result<TokenRequest> = accounts
                .create_subresource("token", &account_of(pod), &PostParams::default(), &request)
                .await;
            match answer.map(|request| request.status) {
                Ok(Some(status)) => return status.token,
                Ok(None) => tracing::debug!("the API gave no token"),
                Err(error) => tracing::debug!(%error, "no token for a pod yet, it is tried again"),
            }
            rest(pause).await;
            pause = (pause * 2).min(pod::PAUSE.1);
        }
    }

    /// The way to the API with the rights of the pod's service account.
    fn write_kubeconfig(&self, pod: &Pod, token: &str) -> Result<(), Missing> {
        if !wants_token(pod) {
            return Ok(());
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "devcluster",
            "clusters": [{"name": "devcluster", "cluster": {"server": self.options.server}}],
            "users": [{"name": "devcluster", "user": {"token": token}}],
            "contexts": [{"name": "devcluster", "context": {"cluster": "devcluster", "user": "devcluster", "namespace": namespace}}],
        });
        let folder = self.folder_of(pod);
        fs::create_dir_all(&folder)
            .and_then(|()| fs::write(folder.join("kubeconfig"), config.to_string()))
            .map_err(|error| Missing(format!("writing the kubeconfig: {error}")))
    }
}

fn wants_token(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.automount_service_account_token) != Some(false)
}

fn log_path(folder: &Path, namespace: &str, pod: &str, container: &str) -> PathBuf {
    folder.join("logs").join(namespace).join(format!("{pod}.{container}.log"))
}
