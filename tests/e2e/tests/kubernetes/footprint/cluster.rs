//! A cluster without controllers, the daemons as pods in it, and what they cost.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use devcluster::{
    Cluster, Options,
    node::{Node, NodeOptions},
};
use e2e::{
    admin::{self, Metrics},
    binaries,
    kubernetes::{Names, Setting, manifests, shop},
    processes, until,
    wait::pause,
};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::WAIT_TIMEOUT;

/// A cluster without controllers, and all in it that the daemons need but themselves.
pub(super) struct BareCluster {
    pub(super) client: Client,
    daemons: Vec<Value>,
    pub(super) node: Node,
    pub(super) cluster: Cluster,
    _folder: tempfile::TempDir,
}

/// An autoscaler's process.
pub(super) struct Autoscaler {
    pub(super) process: u32,
    admin: SocketAddr,
}

/// What was spent, since the beginning or since another moment.
pub(super) struct Cost {
    pub(super) at: Instant,
    took: Duration,
    pub(super) cpu: Duration,
    /// Of the API, as `VERB RESOURCE`.
    pub(super) calls: BTreeMap<String, u64>,
}

// === impl BareCluster ===

impl BareCluster {
    pub(super) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let programs = shop::programs(folder.path(), binaries::folder());
        let cluster = Cluster::start(Options::default()).unwrap();
        let client = cluster.client().unwrap();
        let setting =
            Setting { file: "namespace: shop\nscaleInterval: 1s\n".to_owned(), ..Setting::default() };
        let mut options = NodeOptions::new(&programs, cluster.url());
        options.folder = Some(folder.path().join("node"));
        let node = Node::start(client.clone(), options).await.unwrap();
        let annotations = json!({"scaler.dev/intercept": "manual"});
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "annotations": annotations}});
        // A request for a Deployment's host passes the DLX.
        let backend = json!({"service": {"name": "scaler-dlx", "port": {"number": 80}}});
        let paths = json!([{"path": "/", "pathType": "Prefix", "backend": backend}]);
        let ingress = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": {"name": "all", "namespace": "shop"},
            "spec": {"rules": [{"host": "*.shop.svc", "http": {"paths": paths}}]},
        });
        let (daemons, others): (Vec<Value>, Vec<Value>) = manifests::objects(&setting, &Names::default())
            .into_iter()
            .partition(|object| object["kind"] == "Deployment");
        for object in std::iter::once(&namespace).chain(&others).chain([&ingress]) {
            e2e::kubernetes::create(&client, object).await;
        }
        Self { client, daemons, node, cluster, _folder: folder }
    }

    pub(super) async fn create_all(&self, objects: impl Iterator<Item = Value>) {
        let made = futures_util::stream::iter(objects).map(|object| async move {
            e2e::kubernetes::create(&self.client, &object).await;
        });
        made.buffer_unordered(64).collect::<()>().await;
    }

    /// A pod as a daemon's Deployment would make it.
    pub(super) async fn daemon(&self, part: shop::Part, name: &str) {
        let of = |object: &&Value| object["metadata"]["name"] == part.deployment();
        let deployment = self.daemons.iter().find(of).expect("the daemon's Deployment");
        let template = &deployment["spec"]["template"];
        let mut metadata = template["metadata"].clone();
        metadata["name"] = json!(name);
        metadata["namespace"] = deployment["metadata"]["namespace"].clone();
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]});
        e2e::kubernetes::create(&self.client, &pod).await;
    }

    /// The autoscaler, once it has listed so many.
    pub(super) async fn autoscaler(&self, resources: usize) -> Autoscaler {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), "shop");
        let admin = until("the autoscaler to have listed them", || async {
            let pod = pods.get("scaler-autoscaler").await.map_err(|error| error.to_string())?;
            let address: IpAddr = pod
                .status
                .and_then(|status| status.pod_ip?.parse().ok())
                .ok_or_else(|| "no address yet".to_owned())?;
            let admin = SocketAddr::from((address, 8092));
            let listed = admin::get(admin, "/api/v1/resources").await?.json();
            let count = listed["resources"].as_array().map_or(0, Vec::len);
            if count == resources { Ok(admin) } else { Err(format!("{count} listed")) }
        })
        .await;
        let process = self.node.process("shop", "scaler-autoscaler").expect("the autoscaler's process");
        Autoscaler { process, admin }
    }

    pub(super) async fn ready(&self, names: &[String]) {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), "shop");
        for name in names {
            until(&format!("{name} to be ready"), || async {
                let status = pods.get(name).await.map_err(|error| error.to_string())?.status;
                let mut conditions = status.iter().flat_map(|status| status.conditions.iter().flatten());
                let ready = conditions.any(|one| one.type_ == "Ready" && one.status == "True");
                if ready { Ok(()) } else { Err(format!("{status:?}")) }
            })
            .await;
        }
    }

    /// The costs from here on.
    pub(super) fn begin(&self, autoscaler: &Autoscaler) -> Cost {
        Cost {
            at: Instant::now(),
            took: Duration::ZERO,
            cpu: processes::cpu_time(autoscaler.process),
            calls: self.calls(),
        }
    }

    pub(super) fn since(&self, autoscaler: &Autoscaler, before: &Cost) -> Cost {
        let calls = self.calls().into_iter().filter_map(|(what, count)| {
            let more = count - before.calls.get(&what).copied().unwrap_or_default();
            (more > 0).then_some((what, more))
        });
        Cost {
            at: before.at,
            took: before.at.elapsed(),
            cpu: processes::cpu_time(autoscaler.process).saturating_sub(before.cpu),
            calls: calls.collect(),
        }
    }

    /// What the autoscaler has asked of the API so far.
    fn calls(&self) -> BTreeMap<String, u64> {
        let (user, all) = (shop::Part::Autoscaler.user(), self.cluster.requests().all());
        let its = all.into_iter().filter(|(asked, _)| asked.user == user);
        its.map(|(asked, count)| (format!("{} {}", asked.verb, asked.resource), count)).collect()
    }

    /// Waits until the autoscaler writes nothing any more but its Lease.
    pub(super) async fn calm(&self, autoscaler: &Autoscaler) {
        let began = Instant::now();
        loop {
            let before = self.begin(autoscaler);
            pause(Duration::from_secs(3)).await;
            let calls = self.since(autoscaler, &before).calls;
            let writes = |what: &&String| {
                ["create", "update", "patch", "delete"].iter().any(|verb| what.starts_with(verb))
            };
            if calls.keys().filter(writes).all(|what| what.ends_with(" leases")) {
                return;
            }
            assert!(began.elapsed() < WAIT_TIMEOUT, "it goes on and on: {calls:?}");
        }
    }

    /// So many cycles: how many there were, and what they cost.
    pub(super) async fn cycles(&self, autoscaler: &Autoscaler, count: f64) -> (f64, Cost) {
        let cycles = || async {
            let answer = admin::get(autoscaler.admin, "/metrics").await.expect("its metrics");
            Metrics::parse(&answer.text()).sum("scaler_cycles_total", &[])
        };
        let (first, before) = (cycles().await, self.begin(autoscaler));
        while cycles().await < first + count {
            pause(Duration::from_millis(200)).await;
        }
        let done = cycles().await - first;
        let cost = self.since(autoscaler, &before);
        let metrics = admin::get(autoscaler.admin, "/metrics").await.expect("its metrics").text();
        let refused = Metrics::parse(&metrics).sum("scaler_refused", &[]);
        assert_eq!(refused, 0.0, "each can be scaled to zero: otherwise something else is measured");
        (done, cost)
    }
}

// === impl Cost ===

impl Cost {
    pub(super) fn seconds(&self) -> f64 {
        self.took.as_secs_f64()
    }

    pub(super) fn cpu_ms(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e3
    }

    /// All calls together.
    pub(super) fn all(&self) -> u64 {
        self.calls.values().sum()
    }
}

/// What of a process is in memory, in MiB.
pub(super) fn memory_mib(process: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("the process's status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kib.expect("a process in memory") / 1024.0
}
