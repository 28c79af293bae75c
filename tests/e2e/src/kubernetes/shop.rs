//! A cluster with both daemons in it.

mod services;
mod versions;
mod workloads;

use std::{
    collections::BTreeMap,
    fmt, fs,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use devcluster::{Cluster, Options, proxy::ProxyOptions};
use futures_util::StreamExt as _;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    runtime::{WatchStreamExt as _, reflector, watcher},
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

pub use services::is_dlx;
pub use versions::{Earlier, Version, Versions, earlier};

use super::{
    Names,
    front::Front,
    journals::Journals,
    manifests::{self, NAMESPACE},
    test_cluster::TestCluster,
};
use crate::{
    admin::{self, Metrics},
    binaries,
    traffic::LiveAddresses,
    until,
};

/// How a shop is set up.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The API, with what is left out of it.
    pub api: Options,
    /// The namespace file.
    pub file: String,
    /// How many autoscalers.
    pub autoscalers: u32,
    /// How many DLXs.
    pub dlxs: u32,
    /// One more DLX, which is a user of its own: [`SECOND_DLX`].
    pub second_dlx: bool,
    /// The DLX listens on all addresses, as it does in a cluster. On devcluster there can be but one such: all pods share one network.
    pub everywhere: bool,
    /// What is there before the daemons come, such as other controllers' kinds.
    pub before: Vec<Value>,
    /// The nodes' service proxies; without them no connection to a Service's address is accepted.
    pub proxy: Option<ProxyOptions>,
    /// How many pods devcluster's node takes.
    pub pods: usize,
    /// Values of the chart, as YAML, beside those that the manifests are rendered with; empty: the manifests as they are.
    pub values: String,
    /// Images by their whole names, with the programs of this machine that are run for them on devcluster.
    pub images: BTreeMap<String, String>,
    /// Flags of both daemons, as `--name=value`, over those that the manifests give them.
    pub flags: Vec<String>,
    /// Such of the autoscalers alone.
    pub autoscaler_flags: Vec<String>,
}

/// The DLXs' ports for intercepted Services.
pub const SERVICE_PORTS: RangeInclusive<u16> = 20_000..=20_049;
/// How late nodes follow changes where Services are intercepted.
pub const LAG: Duration = Duration::from_secs(3);
/// How long the daemons wait for them there: a little longer.
pub const PROPAGATION_DELAY: Duration = Duration::from_secs(4);

/// The user of the DLX that faults can be ordered for alone.
pub const SECOND_DLX: &str = "system:serviceaccount:shop:scaler-second-dlx";

/// A cluster with one served namespace and both daemons. It and all it runs end when it is dropped.
pub struct Shop {
    /// May do everything.
    pub client: Client,
    journals: Journals,
    front: Front,
    deployments: reflector::Store<Deployment>,
    follow: JoinHandle<()>,
    test_cluster: TestCluster,
    folder: tempfile::TempDir,
}

/// A daemon's Deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The autoscaler.
    Autoscaler,
    /// The one that wakes.
    Dlx,
}

// === impl Setting ===

impl Default for Setting {
    /// Two of each, deciding every 200 ms.
    fn default() -> Self {
        Self {
            api: Options::default(),
            file: format!("namespace: {NAMESPACE}\nscaleInterval: 200ms\n"),
            autoscalers: 2,
            dlxs: 2,
            second_dlx: false,
            everywhere: false,
            before: Vec::new(),
            proxy: None,
            pods: 110,
            values: String::new(),
            images: BTreeMap::new(),
            flags: Vec::new(),
            autoscaler_flags: Vec::new(),
        }
    }
}

impl Setting {
    /// With intercepted Services: two nodes that follow changes up to [`LAG`] late, each by a time of its own, and daemons that wait
    /// [`PROPAGATION_DELAY`] for them.
    pub fn intercepting() -> Self {
        let proxy = ProxyOptions { lag: Duration::ZERO..LAG, ..ProxyOptions::default() };
        let delay = format!("--endpoint-propagation-delay={}s", PROPAGATION_DELAY.as_secs());
        let ports = format!("--service-ports={}-{}", SERVICE_PORTS.start(), SERVICE_PORTS.end());
        let flags = vec![ports, delay];
        Self { proxy: Some(proxy), flags, ..Self::default() }
    }

    /// The same in a cluster of two families of addresses, with one DLX, which has both.
    pub fn dual_stack() -> Self {
        let api = Options { dual_stack: true, ..Options::default() };
        Self { api, dlxs: 1, everywhere: true, ..Self::intercepting() }
    }

    /// Lines at the end of the namespace file.
    #[must_use]
    pub fn with(mut self, lines: &str) -> Self {
        self.file.push_str(lines);
        self
    }
}

// === impl Part ===

impl Part {
    /// The container's and component's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Autoscaler => "autoscaler",
            Self::Dlx => "dlx",
        }
    }

    /// The Deployment's name.
    pub fn deployment(self) -> String {
        format!("scaler-{}", self.name())
    }

    /// The user its pods are.
    pub fn user(self) -> String {
        format!("system:serviceaccount:{NAMESPACE}:{}", self.deployment())
    }

    fn admin_port(self) -> u16 {
        match self {
            Self::Autoscaler => 8092,
            Self::Dlx => 8091,
        }
    }
}

// === impl Shop ===

impl Shop {
    /// As [`Shop::open_with`], with two of each daemon.
    pub async fn open() -> Self {
        Self::open_with(Setting::default()).await
    }

    /// Starts the cluster, or takes the one there is, applies the manifests and waits until every daemon is ready. To be
    /// called in a test that [`run`](super::run) runs.
    ///
    /// # Panics
    ///
    /// It does not come up.
    pub async fn open_with(setting: Setting) -> Self {
        let scratch = binaries::scratch();
        fs::create_dir_all(&scratch).expect("creating the folder of the shops");
        let prefix = format!("shop-{}-", std::process::id());
        let folder =
            tempfile::Builder::new().prefix(&prefix).tempdir_in(scratch).expect("creating the shop's folder");
        let (client, test_cluster) = TestCluster::open(&setting, folder.path()).await;
        let namespace = test_cluster.names().namespace.clone();
        let journals = test_cluster.journals(&client, folder.path()).await;
        for object in setting.before.iter().chain(&manifests::objects(&setting, test_cluster.names())) {
            test_cluster.create(&client, object).await;
        }
        let front = Front::follow(client.clone(), &namespace);
        let (store, writer) = reflector::store();
        let all: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
        let stream = reflector(writer, watcher(all, watcher::Config::default())).default_backoff();
        let follow = tokio::spawn(stream.for_each(|_| std::future::ready(())));
        let shop = Self { client, journals, front, deployments: store, follow, test_cluster, folder };
        shop.ready(Part::Dlx, setting.dlxs).await;
        shop.ready(Part::Autoscaler, setting.autoscalers).await;
        until("the DLXs to be found", || async {
            let (found, wanted) =
                (shop.fronts().all().len(), setting.dlxs as usize + usize::from(setting.second_dlx));
            if found == wanted {
                Ok(())
            } else {
                Err(format!("{found} of {wanted}; {}", shop.logs("second-dlx", 5)))
            }
        })
        .await;
        shop
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The API of a test that [`needs_devcluster`](super::needs_devcluster).
    pub fn cluster(&self) -> &Cluster {
        self.test_cluster.cluster()
    }

    /// The namespace and the images.
    pub fn names(&self) -> &Names {
        self.test_cluster.names()
    }

    /// Where workloads write down what they were given.
    pub fn journals(&self) -> Journals {
        self.journals.clone()
    }

    /// Where the DLXs take requests, as pods come and go.
    pub fn fronts(&self) -> LiveAddresses {
        self.front.fronts.clone()
    }

    /// A daemon's pods that are not going, by name.
    pub async fn pods(&self, part: Part) -> Vec<Pod> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.names().namespace);
        let of = ListParams::default().labels(&format!("app.kubernetes.io/component={}", part.name()));
        let list = pods.list(&of).await.map(|list| list.items).unwrap_or_default();
        list.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect()
    }

    /// The admin ports of a daemon's pods.
    pub async fn admins(&self, part: Part) -> Vec<(String, SocketAddr)> {
        let address = |pod: &Pod| -> Option<IpAddr> { pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok() };
        let pods = self.pods(part).await;
        let with = pods.iter().filter_map(|pod| Some((pod.name_any(), address(pod)?)));
        with.map(|(name, address)| (name, SocketAddr::from((address, part.admin_port())))).collect()
    }

    /// What each pod of a daemon counts.
    pub async fn metrics(&self, part: Part) -> Vec<(String, Metrics)> {
        let mut all = Vec::new();
        for (pod, address) in self.admins(part).await {
            if let Ok(answer) = admin::get(address, "/metrics").await {
                all.push((pod, Metrics::parse(&answer.text())));
            }
        }
        all
    }

    /// Waits until so many pods of a daemon are ready, and no others are left.
    pub async fn ready(&self, part: Part, count: u32) {
        let name = part.deployment();
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), &self.names().namespace);
        until(&format!("{count} of {name} to be ready"), || async {
            let found = deployments.get(&name).await.map_err(|error| error.to_string())?;
            let status = found.status.unwrap_or_default();
            let observed = status.observed_generation == found.metadata.generation;
            let all = [status.ready_replicas, status.updated_replicas, status.replicas];
            if observed && all.map(Option::unwrap_or_default) == [count as i32; 3] {
                Ok(())
            } else {
                Err(format!("{status:?}\n{}", self.logs(part.name(), 5)))
            }
        })
        .await;
    }

    /// Has so many pods of a daemon, and waits until they are ready and no others are left.
    pub async fn scale(&self, part: Part, count: u32) {
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), &self.names().namespace);
        let patch = Patch::Merge(json!({"spec": {"replicas": count}}));
        let scaled = deployments.patch(&part.deployment(), &PatchParams::default(), &patch).await;
        scaled.expect("scaling a daemon");
        until(&format!("{count} pods of {}", part.deployment()), || async {
            let left = self.pods(part).await.len();
            if left == count as usize { Ok(()) } else { Err(format!("{left}")) }
        })
        .await;
        self.ready(part, count).await;
    }

    /// Deletes a pod of this namespace, as an eviction does.
    pub async fn delete_pod(&self, name: &str) {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.names().namespace);
        pods.delete(name, &DeleteParams::default())
            .await
            .unwrap_or_else(|error| panic!("deleting {name}: {error}"));
    }

    /// Deletes a pod of this namespace without a grace period, as when its node is lost.
    pub async fn delete_now(&self, name: &str) {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.names().namespace);
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        pods.delete(name, &now).await.unwrap_or_else(|error| panic!("deleting {name}: {error}"));
    }

    /// `kubectl rollout restart`, of which the end is not waited for.
    pub async fn restart(&self, part: Part, mark: &str) {
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), &self.names().namespace);
        let patch = json!({"spec": {"template": {"metadata": {"annotations": {"restarted": mark}}}}});
        deployments
            .patch(&part.deployment(), &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .expect("restarting a Deployment");
    }

    /// The leader's pod.
    pub async fn leader(&self) -> Option<String> {
        let leases: Api<k8s_openapi::api::coordination::v1::Lease> =
            Api::namespaced(self.client.clone(), &self.names().namespace);
        let lease = leases.get("scaler-autoscaler").await.ok()?;
        lease.spec?.holder_identity.filter(|holder| !holder.is_empty())
    }

    /// Where the DLX of [`SECOND_DLX`] takes requests.
    pub async fn second_dlx(&self) -> SocketAddr {
        let pods = self.pods(Part::Dlx).await;
        let pod = pods.iter().find(|pod| pod.name_any().starts_with("scaler-second-dlx"));
        let address = pod.and_then(|pod| pod.status.as_ref()?.pod_ip.as_ref()?.parse::<IpAddr>().ok());
        (address.expect("the second DLX's address"), 8090).into()
    }

    /// The last lines of the logs whose names contain `part`.
    pub fn logs(&self, part: &str, lines: usize) -> String {
        let folder = self.folder().join("node/logs").join(NAMESPACE);
        if self.test_cluster.is_existing() {
            return format!("the logs are the cluster's, in the namespace {}\n", self.names().namespace);
        }
        let mut all = String::new();
        let mut paths: Vec<PathBuf> =
            fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths.iter().filter(|path| path.to_string_lossy().contains(part)) {
            let text = fs::read(path).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let tail: Vec<&str> = text.lines().rev().take(lines).collect();
            all.push_str(&format!("---- {}\n", path.file_name().unwrap_or_default().display()));
            for line in tail.into_iter().rev() {
                all.push_str(line);
                all.push('\n');
            }
        }
        all
    }
}

impl fmt::Debug for Shop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shop").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.follow.abort();
        if std::thread::panicking() {
            eprintln!("the shop is kept: {}\n{}", self.folder().display(), self.logs("scaler-", 60));
            self.folder.disable_cleanup(true);
        }
    }
}

/// The images: a folder with the daemons, their plugin and the service.
///
/// # Panics
///
/// They are not all there.
pub fn programs(folder: &Path, built: &Path) -> PathBuf {
    let programs = folder.join("programs");
    fs::create_dir_all(programs.join("plugins/metric-sources")).expect("creating the folder of the programs");
    for (from, name) in [
        (built.join("autoscaler"), "autoscaler"),
        (built.join("dlx"), "dlx"),
        (binaries::own("service"), "service"),
        (built.join("libdeployment.so"), "plugins/deployment.so"),
        (built.join("libqueues.so"), "plugins/metric-sources/queues.so"),
    ] {
        link(&from, &programs.join(name));
    }
    programs
}

fn link(from: &Path, to: &Path) {
    fs::hard_link(from, to)
        .or_else(|_| fs::copy(from, to).map(|_| ()))
        .unwrap_or_else(|error| panic!("linking {} as {}: {error}", from.display(), to.display()));
}
