//! The addresses of the DLXs that a Service would have as endpoints, as pods come and go.

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt as _, reflector, watcher},
};
use tokio::task::JoinHandle;

use crate::traffic::LiveAddresses;

/// The port on which a DLX takes requests.
const PORT: u16 = 8090;

/// Follows the DLXs' pods until it is dropped.
#[derive(Debug)]
pub struct Front {
    /// Where requests are to be sent now.
    pub fronts: LiveAddresses,
    task: JoinHandle<()>,
}

// === impl Front ===

impl Front {
    /// Starts to follow them.
    pub fn follow(client: Client, namespace: &str) -> Self {
        let fronts = LiveAddresses::default();
        let known = fronts.clone();
        let pods: Api<Pod> = Api::namespaced(client, namespace);
        let task = tokio::spawn(async move {
            let (store, writer) = reflector::store();
            let config = watcher::Config::default().labels("app.kubernetes.io/component=dlx");
            let stream = reflector(writer, watcher(pods, config)).default_backoff();
            let mut stream = std::pin::pin!(stream);
            while stream.next().await.is_some() {
                let serving = store.state();
                known.set(serving.iter().filter_map(|pod| address(pod)).collect());
            }
        });
        Self { fronts, task }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where a pod takes requests, if it would be a ready endpoint of a Service: it is ready, and not being deleted.
fn address(pod: &Pod) -> Option<std::net::SocketAddr> {
    let status = pod.status.as_ref()?;
    let ready = status
        .conditions
        .iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    if !ready || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    Some((status.pod_ip.as_ref()?.parse::<std::net::IpAddr>().ok()?, PORT).into())
}
