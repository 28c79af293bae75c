//! A real Prometheus beside the daemons, which scrapes the test service's pods.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt as _, reflector, watcher},
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{Shop, needs_devcluster, workload::PORT};

/// Its port.
const LISTEN: u16 = 9090;
/// Names the address of this machine by which pods of a cluster that is there reach it.
const OWN_ADDRESS: &str = "SCALER_E2E_ADDRESS";
/// How often it scrapes.
const INTERVAL: &str = "500ms";
/// The shortest sample that its scrapes prove: four of them.
pub const SAMPLE: Duration = Duration::from_secs(2);

/// What a namespace file says of it, with the queries that follow; each line of them is indented by four.
pub fn source(queries: &str) -> String {
    let address = address();
    format!(
        "metrics:\n  source: prometheus\n  url: http://{address}\n  scrapeInterval: {INTERVAL}\n  queries:\n{queries}"
    )
}

/// Whether a test is to be left out, because pods of the cluster that is there would not reach a Prometheus beside it: this is printed.
#[must_use]
pub fn cannot_be_reached() -> bool {
    let unknown = env::var_os(OWN_ADDRESS).is_none();
    unknown && needs_devcluster(&format!("{OWN_ADDRESS} does not name this machine's address for pods"))
}

/// Where it listens: in devcluster pods share the test's network.
fn address() -> SocketAddr {
    let own = env::var(OWN_ADDRESS).unwrap_or_else(|_| Ipv4Addr::LOCALHOST.to_string());
    let own = own.parse().unwrap_or_else(|error| panic!("{OWN_ADDRESS} is no IP address: {own}: {error}"));
    SocketAddr::new(own, LISTEN)
}

/// Killed when it is dropped.
#[derive(Debug)]
pub struct Prometheus {
    child: Child,
    follow: JoinHandle<()>,
}

// === impl Prometheus ===

impl Prometheus {
    /// Starts it; what it scrapes has the labels `namespace`, and `name` after the pod's label `app`. `None`: it is not installed.
    pub fn start(shop: &Shop) -> Option<Self> {
        let folder = shop.folder();
        let targets = folder.join("targets.json");
        fs::write(&targets, "[]").expect("writing the targets");
        let config = folder.join("prometheus.yaml");
        let text = format!(
            "global: {{scrape_interval: {INTERVAL}}}\nscrape_configs:\n  - job_name: pods\n    file_sd_configs: [{{files: [{targets:?}], \
             refresh_interval: 1s}}]\n"
        );
        fs::write(&config, text).expect("writing its configuration");
        let log = fs::File::create(folder.join("prometheus.log")).expect("creating its log");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("prometheus").display()))
            .arg(format!("--web.listen-address={}", address()))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let Ok(child) = child else {
            println!(
                "not proved: there is no program `prometheus` on this machine (apt-get install prometheus)"
            );
            return None;
        };
        let namespace = shop.names().namespace.clone();
        let follow = tokio::spawn(follow(shop.client.clone(), namespace, targets));
        Some(Self { child, follow })
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.follow.abort();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Keeps the file of the targets as the pods are.
async fn follow(client: Client, namespace: String, targets: impl AsRef<Path>) {
    let (store, writer) = reflector::store();
    let pods: Api<Pod> = Api::namespaced(client, &namespace);
    let stream = reflector(writer, watcher(pods, watcher::Config::default().labels("app"))).default_backoff();
    let mut stream = std::pin::pin!(stream);
    while stream.next().await.is_some() {
        let list: Vec<Value> = store.state().iter().filter_map(|pod| target(pod)).collect();
        // As a whole, by rename: it is read while it is written.
        let new = targets.as_ref().with_extension("new");
        let written = fs::write(&new, json!(list).to_string()).and_then(|()| fs::rename(&new, &targets));
        written.expect("writing the targets");
    }
}

fn target(pod: &Pod) -> Option<Value> {
    let address = pod.status.as_ref()?.pod_ip.as_ref()?;
    let name = pod.metadata.labels.as_ref()?.get("app")?;
    let labels = json!({"namespace": pod.metadata.namespace, "name": name});
    Some(json!({"targets": [format!("{address}:{PORT}")], "labels": labels}))
}
