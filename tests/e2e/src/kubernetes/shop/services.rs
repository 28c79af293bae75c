//! Services as clients see them, and daemons that are killed.

use std::{fs, net::SocketAddr, process::Stdio};

use devcluster::{
    User,
    node::NodeFaults,
    proxy::{NO_LAG, ServiceProxy},
};
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use rustix::process::{Pid, Signal, kill_process};
use scaler_types::Backend;
use tokio::{process::Command, time::timeout};

use super::{LAG, Part, SERVICE_PORTS, Shop, programs};
use crate::{
    binaries,
    kubernetes::{Workload, WorkloadView, kubeconfig},
    traffic::Way,
    until,
    wait::{pause, wait_timeout},
};

impl Shop {
    /// The nodes' service proxies of a test that [`needs_devcluster`](crate::kubernetes::needs_devcluster).
    ///
    /// # Panics
    ///
    /// The shop was set up without them.
    pub fn proxy(&self) -> &ServiceProxy {
        self.test_cluster.proxy().expect("a setting with service proxies")
    }

    /// Where a port of a workload's Service is reached, by the first of its families: one address for each of at least two nodes.
    pub async fn service(&self, workload: &Workload, port: u16) -> Vec<SocketAddr> {
        self.addresses(workload, port).await.into_iter().filter_map(|all| all.first().copied()).collect()
    }

    /// The same by all of its families, for each node.
    pub async fn addresses(&self, workload: &Workload, port: u16) -> Vec<Vec<SocketAddr>> {
        let services: Api<Service> = Api::namespaced(self.client.clone(), &self.names().namespace);
        let name = &workload.name;
        let service = services.get(name).await;
        let service = service.unwrap_or_else(|error| panic!("getting the Service {name}: {error}"));
        // In a cluster that is there all nodes have the same: twice, as on devcluster's two.
        let Some(proxy) = self.test_cluster.proxy() else {
            return vec![ServiceProxy::addresses(0, &service, port); 2];
        };
        let nodes = proxy.nodes();
        (0..nodes).map(|node| ServiceProxy::addresses(node, &service, port)).collect()
    }

    /// The way to a workload by its Service, over any node.
    pub async fn way(&self, workload: &Workload) -> Way {
        Way::new(&workload.host(), self.service(workload, 80).await)
    }

    /// The way to a workload by the DLXs themselves.
    pub fn front_way(&self, workload: &Workload) -> Way {
        Way::new(&workload.host(), self.fronts())
    }

    /// Waits until the endpoints of a workload's Service are the DLXs alone, and every node follows.
    pub async fn until_intercepted(&self, workload: &Workload) -> WorkloadView {
        let seen = self
            .until_seen(workload, "its Service to be intercepted", |seen| seen.backend() == Backend::Dlx)
            .await;
        self.until_nodes_send(workload, |known| !known.is_empty() && known.iter().all(is_dlx)).await;
        seen
    }

    /// Waits until the Service of a workload is not intercepted any more, and every node follows.
    pub async fn until_restored(&self, workload: &Workload) -> WorkloadView {
        let seen = self
            .until_seen(workload, "its Service to be restored", |seen| seen.backend() == Backend::Workload)
            .await;
        self.until_nodes_send(workload, |known| !known.iter().any(is_dlx)).await;
        seen
    }

    /// Waits until the Service of a workload has endpoints on every node.
    pub async fn reached(&self, workload: &Workload) {
        self.until_nodes_send(workload, |known| !known.is_empty()).await;
    }

    /// Waits until every node sends new connections to the port 80 of a workload's Service to the wanted endpoints, by all of its
    /// addresses.
    async fn until_nodes_send(&self, workload: &Workload, wanted: impl Fn(&[SocketAddr]) -> bool) {
        self.until_port_sends(workload, 80, wanted).await;
    }

    /// The same of another port.
    ///
    /// # Panics
    ///
    /// A node does not, in a long while.
    pub async fn until_port_sends(
        &self,
        workload: &Workload,
        port: u16,
        wanted: impl Fn(&[SocketAddr]) -> bool,
    ) {
        let Some(proxy) = self.test_cluster.proxy() else {
            return self.until_port_of_existing_cluster_sends(workload, port, wanted).await;
        };
        for (node, addresses) in self.addresses(workload, port).await.into_iter().enumerate() {
            for address in addresses {
                let known = timeout(wait_timeout(), proxy.until(node, address, &wanted)).await;
                assert!(known.is_ok(), "node {node} sends to {:?}", proxy.endpoints(node, address));
            }
        }
    }

    /// The same in a cluster that is there: what its nodes know cannot be seen, so they get [`LAG`] to follow the API.
    async fn until_port_of_existing_cluster_sends(
        &self,
        workload: &Workload,
        port: u16,
        wanted: impl Fn(&[SocketAddr]) -> bool,
    ) {
        let name = &workload.name;
        until(&format!("the Service {name} to have the endpoints that the test waits for"), || async {
            let namespace = &self.names().namespace;
            let known = ServiceProxy::endpoints_now(&self.client, namespace, name, port).await;
            let known = known.map_err(|error| error.to_string())?;
            if wanted(&known) { Ok(()) } else { Err(format!("{known:?}")) }
        })
        .await;
        pause(LAG).await;
    }

    /// Has devcluster's nodes hear of changes at once. Those of a cluster that is there are as they are.
    pub fn nodes_hear_at_once(&self) {
        let Some(proxy) = self.test_cluster.proxy() else { return };
        (0..proxy.nodes()).for_each(|node| proxy.set_lag(node, NO_LAG));
    }

    /// Restores everything by `autoscaler restore`, as an administrator runs it, with these arguments besides: what it printed.
    ///
    /// # Panics
    ///
    /// It fails.
    pub async fn restore(&self, arguments: &[&str]) -> String {
        let namespace = &self.names().namespace;
        let folder = tempfile::tempdir_in(self.folder()).expect("a folder for the programs");
        let programs = programs(folder.path(), binaries::folder());
        let kubeconfig = match kubeconfig() {
            Some(file) => file,
            None => self.cluster().kubeconfig(folder.path(), &User::Admin).expect("a kubeconfig"),
        };
        let config = self.folder().join("restore.yaml");
        fs::write(&config, format!("namespace: {namespace}\n")).expect("writing the namespace file");
        let (first, last) = (SERVICE_PORTS.start(), SERVICE_PORTS.end());
        let output = Command::new(programs.join("autoscaler"))
            .arg("restore")
            .args(arguments)
            .arg(format!("--plugins-dir={}", programs.join("plugins").display()))
            .arg(format!("--config={}", config.display()))
            .arg(format!("--kubeconfig-path={}", kubeconfig.display()))
            .arg(format!("--service-ports={first}-{last}"))
            .args(["--coordinate-by=leases", "--endpoint-propagation-delay=1s"])
            .env("POD_NAMESPACE", namespace)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .expect("running it");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{}\n{said}", output.status);
        said
    }

    /// Kills a pod's process, as the kernel does that is out of memory: the node starts it again in the same pod. For a test that
    /// [`needs_devcluster`](crate::kubernetes::needs_devcluster).
    ///
    /// # Panics
    ///
    /// The pod has none.
    pub fn kill(&self, pod: &str) {
        let process = self.test_cluster.node().process(&self.names().namespace, pod);
        let process = process.and_then(|id| Pid::from_raw(id.try_into().ok()?));
        let process = process.unwrap_or_else(|| panic!("{pod} has no process"));
        kill_process(process, Signal::KILL)
            .unwrap_or_else(|error| panic!("killing the process of {pod}: {error}"));
    }

    /// Orders faults of devcluster's node. For a test that [`needs_devcluster`](crate::kubernetes::needs_devcluster).
    pub fn node_faults(&self, faults: NodeFaults) {
        self.test_cluster.node().set_faults(faults);
    }

    /// Kills the leader the moment a workload is seen so; which pod that was, and what was seen. The moment is
    /// when the API reports it: the leader has written, and may have gone on a little.
    pub async fn kill_leader_at(
        &self,
        workload: &Workload,
        what: &str,
        wanted: impl Fn(&WorkloadView) -> bool,
    ) -> (String, WorkloadView) {
        let leader = self.leader_pod().await;
        let seen = self.until_seen(workload, what, wanted).await;
        self.kill(&leader);
        (leader, seen)
    }

    /// The leader's pod, as soon as there is a leader.
    pub async fn leader_pod(&self) -> String {
        until("a leader", || async {
            let leader = self.leader().await.ok_or("the Lease has no holder")?;
            let pods = self.pods(Part::Autoscaler).await;
            let mut names = pods.into_iter().filter_map(|pod| pod.metadata.name);
            names.find(|name| leader.starts_with(name)).ok_or_else(|| format!("{leader} is none of them"))
        })
        .await
    }
}

/// Whether an endpoint is a DLX's: by its port.
pub fn is_dlx(endpoint: &SocketAddr) -> bool {
    SERVICE_PORTS.contains(&endpoint.port())
}
