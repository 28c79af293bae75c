//! Where a test runs: devcluster with controllers and a node, or a real cluster.

use std::{collections::BTreeMap, env, fmt::Debug, future::Future, path::Path, time::Duration};

use devcluster::{
    Cluster, Options,
    controllers::Controllers,
    netns,
    node::{Node, NodeOptions},
};
use futures_util::{StreamExt as _, pin_mut};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{Namespace, Pod},
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::watcher::{self, Event, watcher},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::timeout;

/// How long anything may take before a test gives up; a real cluster pulls images and probes by whole seconds.
pub const PATIENCE: Duration = Duration::from_secs(50);

/// A namespace to work in.
pub struct Site {
    pub client: Client,
    pub namespace: String,
    /// What pods run.
    pub image: String,
    /// An image that is nowhere.
    pub missing: String,
    dev: Option<Dev>,
}

/// The parts of a devcluster, in the order in which they are to end.
struct Dev {
    node: Node,
    _controllers: Controllers,
    cluster: Cluster,
}

/// Runs a test on devcluster, and in a real cluster if the environment names one.
pub fn everywhere<T: Future<Output = ()>>(test: impl FnOnce(Site) -> T) {
    everywhere_with(|_| {}, test);
}

/// [`everywhere`], with devcluster's node set up so; a real cluster is as it is.
pub fn everywhere_with<T: Future<Output = ()>>(
    options: impl FnOnce(&mut NodeOptions),
    test: impl FnOnce(Site) -> T,
) {
    match (env::var("SCALER_E2E_KUBECONFIG"), env::var("SCALER_E2E_IMAGE_HELLO")) {
        (Ok(kubeconfig), Ok(image)) => {
            let runtime = tokio::runtime::Runtime::new().expect("making a tokio runtime");
            runtime.block_on(async {
                let site = Site::real(&kubeconfig, image).await;
                let (client, namespace) = (site.client.clone(), site.namespace.clone());
                test(site).await;
                let namespaces: Api<Namespace> = Api::all(client);
                namespaces
                    .delete(&namespace, &DeleteParams::default())
                    .await
                    .expect("deleting the namespace");
            });
        }
        (Ok(_), Err(_)) => println!("not proved: SCALER_E2E_IMAGE_HELLO names no image to run"),
        (Err(_), _) => dev_only(options, test),
    }
}

/// Runs a test on devcluster only: it looks at processes or orders faults.
pub fn dev_only<T: Future<Output = ()>>(
    options: impl FnOnce(&mut NodeOptions),
    test: impl FnOnce(Site) -> T,
) {
    only_dev(|| async { test(Site::dev(options).await).await });
}

/// Runs a test that has nothing to do with a real cluster, in a network namespace of its own.
pub fn only_dev<T: Future<Output = ()>>(test: impl FnOnce() -> T) {
    if env::var_os("SCALER_E2E_KUBECONFIG").is_some() {
        println!("not proved: this test looks inside the node, which a real cluster does not allow");
        return;
    }
    netns::run(async { test().await });
}

// === impl Site ===

impl Site {
    async fn dev(set: impl FnOnce(&mut NodeOptions)) -> Self {
        let programs = Path::new(env!("CARGO_BIN_EXE_sample")).parent().expect("the folder of programs");
        let mut options = NodeOptions::new(programs, "");
        options.crash_backoff = Duration::from_millis(300);
        options.pull_backoff = Duration::from_millis(300);
        set(&mut options);
        let api = Options { dual_stack: options.dual_stack, ..Options::default() };
        let cluster = Cluster::start(api).expect("starting the API");
        let client = cluster.client().expect("a client of the API");
        let controllers = Controllers::start(client.clone());
        options.server = cluster.url();
        let node = Node::start(client.clone(), options).await.expect("starting the node");
        Self { dev: Some(Dev { node, _controllers: controllers, cluster }), ..Self::of(client) }
    }

    /// A devcluster that another process has started.
    pub fn of(client: Client) -> Self {
        Self {
            client,
            namespace: "default".into(),
            image: "devcluster/sample".into(),
            missing: "devcluster/missing".into(),
            dev: None,
        }
    }

    async fn real(kubeconfig: &str, image: String) -> Self {
        let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("reading SCALER_E2E_KUBECONFIG");
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
        let client = Client::try_from(config.expect("taking the kubeconfig")).expect("a client");
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let namespace = json!({"metadata": {"generateName": "scaler-workloads-"}});
        let namespace = serde_json::from_value(namespace).expect("a namespace");
        let made = namespaces.create(&PostParams::default(), &namespace).await.expect("making a namespace");
        Self {
            client,
            namespace: made.name_any(),
            image,
            missing: "registry.invalid/missing:none".into(),
            dev: None,
        }
    }

    /// The node, for tests of devcluster only.
    pub fn node(&self) -> &Node {
        &self.dev.as_ref().expect("a test of devcluster only").node
    }

    /// The API, for tests of devcluster only.
    pub fn cluster(&self) -> &Cluster {
        &self.dev.as_ref().expect("a test of devcluster only").cluster
    }

    /// Whether times are those of a test: a real cluster's are seconds and minutes.
    pub fn is_dev(&self) -> bool {
        self.dev.is_some()
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates an object from its JSON.
    pub async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Serialize
            + DeserializeOwned
            + Clone
            + Debug,
    {
        let object: K = serde_json::from_value(object).expect("an object of that kind");
        self.api::<K>().create(&PostParams::default(), &object).await.expect("creating an object")
    }

    pub async fn patch<K>(&self, name: &str, patch: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
    {
        let patched = self.api::<K>().patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        patched.expect("patching an object")
    }

    pub async fn delete<K>(&self, name: &str)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
    {
        self.api::<K>().delete(name, &DeleteParams::default()).await.expect("deleting an object");
    }

    /// Watches one object until it is as wanted.
    pub async fn until<K>(&self, what: &str, name: &str, wanted: impl Fn(&K) -> bool) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + DeserializeOwned
            + Clone
            + Debug
            + Send
            + 'static,
    {
        let fields = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let all = self.watch(what, fields, |all: &BTreeMap<String, K>| all.values().any(&wanted)).await;
        all.into_values().next().expect("the object that was wanted")
    }

    /// Watches the objects with those labels until all together are as wanted.
    pub async fn until_all<K>(
        &self,
        what: &str,
        labels: &str,
        wanted: impl Fn(&BTreeMap<String, K>) -> bool,
    ) -> BTreeMap<String, K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + DeserializeOwned
            + Clone
            + Debug
            + Send
            + 'static,
    {
        self.watch(what, watcher::Config::default().labels(labels), wanted).await
    }

    /// The pod of one workload, once there is exactly one and it is as wanted.
    pub async fn pod(&self, what: &str, labels: &str, wanted: impl Fn(&Pod) -> bool) -> Pod {
        let one = |pods: &BTreeMap<String, Pod>| pods.len() == 1 && pods.values().all(&wanted);
        self.until_all(what, labels, one).await.into_values().next().expect("one pod")
    }

    async fn watch<K>(
        &self,
        what: &str,
        config: watcher::Config,
        wanted: impl Fn(&BTreeMap<String, K>) -> bool,
    ) -> BTreeMap<String, K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + DeserializeOwned
            + Clone
            + Debug
            + Send
            + 'static,
    {
        let mut known: BTreeMap<String, K> = BTreeMap::new();
        let look = async {
            let events = watcher(self.api::<K>(), config);
            pin_mut!(events);
            let mut listed = false;
            loop {
                // An API that fails, as some tests order it, is asked again.
                let Ok(event) = events.next().await.expect("a watch has no end") else { continue };
                match event {
                    Event::Apply(object) | Event::InitApply(object) => {
                        known.insert(object.name_any(), object);
                    }
                    Event::Delete(object) => {
                        known.remove(&object.name_any());
                    }
                    Event::Init => known.clear(),
                    Event::InitDone => listed = true,
                }
                if listed && wanted(&known) {
                    return;
                }
            }
        };
        let found = timeout(PATIENCE, look).await.is_ok();
        assert!(found, "waited {PATIENCE:?} for {what}; last seen: {known:#?}");
        known
    }
}

/// A Deployment that runs the site's image with these arguments.
pub fn deployment(site: &Site, name: &str, replicas: i32, arguments: &[&str]) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": template(site, name, arguments),
        },
    })
}

/// A pod template that listens on port 8080 of the pod's address.
pub fn template(site: &Site, name: &str, arguments: &[&str]) -> Value {
    let mut all = vec!["--port", "8080", "--bind", "$(POD_IP)"];
    all.extend(arguments);
    json!({
        "metadata": {"labels": {"app": name}},
        "spec": {
            "terminationGracePeriodSeconds": 5,
            "containers": [{
                "name": "app", "image": site.image, "args": all,
                "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                "ports": [{"name": "http", "containerPort": 8080}],
                "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 1},
            }],
        },
    })
}

/// Whether the pod's Ready condition says so.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Why the pod's container waits.
pub fn waiting(pod: &Pod) -> Option<(&str, &str)> {
    let status = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    Some((waiting.reason.as_deref()?, waiting.message.as_deref().unwrap_or_default()))
}

/// GET of a path of a pod; the body.
pub async fn get(pod: &Pod, path: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()).expect("a pod's address");
    let mut stream = tokio::net::TcpStream::connect((address, 8080)).await.expect("connecting to a pod");
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: pod\r\n\r\n").as_bytes())
        .await
        .expect("asking a pod");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("a pod's answer");
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
}

/// Neither being deleted nor ended.
pub fn lives(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Succeeded" | "Failed"))
}
