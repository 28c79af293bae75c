//! Where the tests run: on a devcluster of their own, or in a cluster that is there.
//!
//! | variable | is |
//! |---|---|
//! | `SCALER_E2E_KUBECONFIG` | the cluster's kubeconfig file, of a user that may create namespaces and cluster roles; without it: devcluster |
//! | `SCALER_E2E_IMAGE_AUTOSCALER`, `SCALER_E2E_IMAGE_DLX` | the daemons' images, as the cluster's nodes pull them |
//! | `SCALER_E2E_IMAGE_SERVICE` | an image whose entry point is this crate's program `service` |
//! | `SCALER_E2E_OLD_IMAGE_AUTOSCALER`, `SCALER_E2E_OLD_IMAGE_DLX` | images of an earlier version, which are upgraded from and gone back to; optional |
//! | `SCALER_E2E_ADDRESS` | this machine's address for pods, which ask the Prometheus that the suite starts; optional |
//! | `SCALER_E2E_OLD_BIN` | on devcluster: a folder with `autoscaler`, `dlx` and `libdeployment.so` of an earlier version |
//!
//! In such a cluster each test has a fresh namespace, labelled `scaler-e2e=true`, and deletes it and the cluster roles it made. Requests
//! go to the addresses of pods and Services: the suite has to run where those can be reached, as on a node or in a pod. What it cannot do there
//! it prints as `not proved`, with why.

use std::{
    env,
    future::Future,
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime},
};

use devcluster::{
    Cluster,
    controllers::Controllers,
    netns,
    node::{Node, NodeOptions},
    proxy::ServiceProxy,
};
use kube::{
    Client,
    api::DeleteParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

use super::{Setting, journals::Journals, manifests::NAMESPACE, objects, shop::programs};
use crate::binaries;

/// Names the kubeconfig file of the cluster to run in.
const KUBECONFIG: &str = "SCALER_E2E_KUBECONFIG";

/// The served namespace, and what pods run.
#[derive(Clone, Debug)]
pub struct Names {
    /// The namespace.
    pub namespace: String,
    /// The autoscaler's image.
    pub autoscaler: String,
    /// The DLX's image.
    pub dlx: String,
    /// The test service's image.
    pub service: String,
    /// Another name of the test service's image; the same where the cluster has but one.
    pub service_v2: String,
    /// An image that is nowhere.
    pub missing: String,
}

/// A cluster, and a namespace in it.
pub(super) enum TestCluster {
    /// In this process.
    Dev(Names, Box<Dev>),
    /// One that exists already.
    Existing(ExistingCluster),
}

/// A devcluster's parts, in the order in which they end.
pub(super) struct Dev {
    cluster: Cluster,
    proxy: Option<ServiceProxy>,
    node: Node,
    _controllers: Controllers,
}

/// A namespace of a cluster that exists already. Dropped, it is deleted with all that belongs to it.
pub(super) struct ExistingCluster {
    names: Names,
    kubeconfig: PathBuf,
    /// What lies in no namespace, in the order in which it was made.
    cluster_wide: std::sync::Mutex<Vec<Value>>,
}

/// The kubeconfig of the cluster to run in, if it is not devcluster.
pub fn kubeconfig() -> Option<PathBuf> {
    env::var_os(KUBECONFIG).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Runs a test: on devcluster in a network namespace of its own, in an existing cluster in this one.
///
/// # Panics
///
/// The test fails.
pub fn run<T: Future<Output = ()>>(test: T) {
    if kubeconfig().is_none() {
        return netns::run(test);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("making a tokio runtime").block_on(test);
}

/// Whether a test is to be left out, because it needs what only devcluster has and runs in another cluster: this is printed.
#[must_use]
pub fn needs_devcluster(why: &str) -> bool {
    let is_existing = kubeconfig().is_some();
    if is_existing {
        println!("not proved: {}: {why}", sentence());
    }
    is_existing
}

/// The running test's name as a sentence.
fn sentence() -> String {
    let of_thread = thread::current().name().filter(|name| *name != "main").map(str::to_owned);
    let name = of_thread.or_else(|| env::args().skip(1).find(|word| !word.starts_with('-')));
    let name = name.unwrap_or_default();
    name.rsplit("::").next().unwrap_or_default().replace('_', " ")
}

// === impl Names ===

impl Default for Names {
    /// Those of devcluster.
    fn default() -> Self {
        Self {
            namespace: NAMESPACE.to_owned(),
            autoscaler: "devcluster/autoscaler".to_owned(),
            dlx: "devcluster/dlx".to_owned(),
            service: "devcluster/service".to_owned(),
            service_v2: "devcluster/service:v2".to_owned(),
            missing: "devcluster/missing".to_owned(),
        }
    }
}

impl Names {
    /// A namespace with a new name, and the images that the environment names.
    fn of_existing_cluster() -> Self {
        let image = |part: &str| {
            let name = format!("SCALER_E2E_IMAGE_{part}");
            let image = env::var(&name).ok().filter(|image| !image.is_empty());
            image.unwrap_or_else(|| {
                panic!(
                    "{KUBECONFIG} names a cluster, and {name} does not say which image to run there: set it"
                )
            })
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            namespace: format!("scaler-e2e-{:x}-{}", now.as_micros(), std::process::id()),
            autoscaler: image("AUTOSCALER"),
            dlx: image("DLX"),
            service: image("SERVICE"),
            service_v2: image("SERVICE"),
            missing: "registry.invalid/missing:none".to_owned(),
        }
    }
}

// === impl TestCluster ===

impl TestCluster {
    /// Starts a devcluster, or takes the cluster of the environment; and makes the namespace.
    pub(super) async fn open(setting: &Setting, folder: &Path) -> (Client, Self) {
        let (client, test_cluster) = match kubeconfig() {
            None => Self::dev(setting, folder).await,
            Some(kubeconfig) => {
                let client = client(&kubeconfig).await;
                // Before the first object, so that whatever happens all of them go.
                let test_cluster = ExistingCluster {
                    names: Names::of_existing_cluster(),
                    kubeconfig,
                    cluster_wide: Default::default(),
                };
                (client, Self::Existing(test_cluster))
            }
        };
        let metadata = json!({"name": test_cluster.names().namespace, "labels": {"scaler-e2e": "true"}});
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata});
        test_cluster.create(&client, &namespace).await;
        (client, test_cluster)
    }

    async fn dev(setting: &Setting, folder: &Path) -> (Client, Self) {
        let programs = programs(folder, binaries::folder());
        let cluster = Cluster::start(setting.api.clone()).expect("starting the API");
        let client = cluster.client().expect("a client of the API");
        let controllers = Controllers::start(client.clone());
        let mut options = NodeOptions::new(&programs, cluster.url());
        options.folder = Some(folder.join("node"));
        options.dual_stack = setting.api.dual_stack;
        options.capacity = setting.pods;
        let images = setting.images.iter();
        let images = images.map(|(image, program)| (image.clone(), binaries::of_machine(program)));
        options.images = images.map(|(image, path)| (image, path.to_string_lossy().into_owned())).collect();
        // Three crashes are what a test is about, not the minute that they take in a cluster.
        options.crash_backoff = Duration::from_millis(100);
        options.pull_backoff = Duration::from_millis(100);
        let node = Node::start(client.clone(), options).await.expect("starting the node");
        let proxy = setting.proxy.as_ref().map(|options| ServiceProxy::start(&client, options));
        let dev = Dev { cluster, proxy, node, _controllers: controllers };
        (client, Self::Dev(Names::default(), Box::new(dev)))
    }

    /// Where workloads write down what they were given.
    pub(super) async fn journals(&self, client: &Client, folder: &Path) -> Journals {
        match self {
            Self::Dev(..) => Journals::Folder(folder.to_owned()),
            Self::Existing(test_cluster) => Journals::start(client, &test_cluster.names).await,
        }
    }

    /// Creates what a shop consists of.
    pub(super) async fn create(&self, client: &Client, object: &Value) {
        if let Self::Existing(test_cluster) = self {
            // The suite asks the daemons' admin ports, as only the autoscaler may.
            if object["kind"] == "NetworkPolicy" {
                println!(
                    "not proved: the NetworkPolicy {}: the suite does what it forbids",
                    object["metadata"]["name"]
                );
                return;
            }
            if object["metadata"]["namespace"].is_null() {
                test_cluster.cluster_wide.lock().expect("the objects made so far").push(object.clone());
            }
        }
        objects::create(client, object).await;
    }

    pub(super) fn cluster(&self) -> &Cluster {
        match self {
            Self::Dev(_, dev) => &dev.cluster,
            Self::Existing(_) => panic!("this test needs devcluster, and does not say so at its head"),
        }
    }

    /// The service proxies, in the cluster that has its own of them.
    pub(super) fn proxy(&self) -> Option<&ServiceProxy> {
        match self {
            Self::Dev(_, dev) => dev.proxy.as_ref(),
            Self::Existing(_) => None,
        }
    }

    pub(super) fn node(&self) -> &Node {
        match self {
            Self::Dev(_, dev) => &dev.node,
            Self::Existing(_) => panic!("this test needs devcluster, and does not say so at its head"),
        }
    }

    pub(super) fn names(&self) -> &Names {
        match self {
            Self::Dev(names, _) => names,
            Self::Existing(test_cluster) => &test_cluster.names,
        }
    }

    pub(super) fn is_existing(&self) -> bool {
        matches!(self, Self::Existing(_))
    }
}

// === impl ExistingCluster ===

impl Drop for ExistingCluster {
    /// Waits until the API has taken the deletions, not until the namespace is empty.
    fn drop(&mut self) {
        let mut objects =
            std::mem::take(&mut *self.cluster_wide.lock().unwrap_or_else(|held| held.into_inner()));
        objects.reverse();
        let kubeconfig = self.kubeconfig.clone();
        // The test's own runtime may be ending.
        let deleted = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("making a tokio runtime").block_on(async {
                let client = client(&kubeconfig).await;
                for object in &objects {
                    let name = object["metadata"]["name"].as_str().unwrap_or_default();
                    let api = objects::api_of(&client, object);
                    if let Err(error) = api.delete(name, &DeleteParams::background()).await {
                        eprintln!("{} {name} is left in the cluster: {error}", object["kind"]);
                    }
                }
            });
        });
        let _ = deleted.join();
    }
}

async fn client(kubeconfig: &Path) -> Client {
    let read =
        Kubeconfig::read_from(kubeconfig).unwrap_or_else(|error| panic!("reading {KUBECONFIG}: {error}"));
    let config = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
    let config = config.unwrap_or_else(|error| panic!("taking the file of {KUBECONFIG}: {error}"));
    Client::try_from(config).unwrap_or_else(|error| panic!("a client by the file of {KUBECONFIG}: {error}"))
}
