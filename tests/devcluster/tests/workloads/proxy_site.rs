//! Nodes' service proxies, a Service, slices made by hand, and endpoints that are this test's own sockets.

use std::{collections::BTreeSet, io, net::SocketAddr};

use devcluster::{
    Cluster, Options,
    proxy::{ProxyOptions, ServiceProxy},
};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};

use crate::site::{PATIENCE, Site, only_dev};

/// As many new connections as certainly meet each of two endpoints.
pub const MANY: usize = 64;

/// A Service `web` with the ports `web` (80) and `other` (81), and the proxies.
pub struct Nodes {
    pub site: Site,
    pub proxy: ServiceProxy,
    pub service: Service,
    _cluster: Cluster,
}

/// An endpoint that says its port on each connection and then echoes; to a client that has closed its half it says goodbye.
pub struct Endpoint {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

/// Runs a test with nodes like that.
pub fn with_nodes<T: Future<Output = ()>>(options: ProxyOptions, test: impl FnOnce(Nodes) -> T) {
    only_dev(|| async { test(Nodes::start(&options).await).await });
}

/// A slice of `web` by this name: ports by name, endpoints by address, and their conditions (ready, serving, terminating).
pub fn slice(name: &str, ports: &[(&str, u16)], endpoints: &[(&str, [bool; 3])]) -> Value {
    let ports: Vec<_> = ports.iter().map(|(name, port)| json!({"name": name, "port": port})).collect();
    let endpoint = |(address, [ready, serving, terminating]): &(&str, [bool; 3])| {
        json!({
            "addresses": [address],
            "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        })
    };
    json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": ports, "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

/// The conditions of an endpoint that takes connections.
pub const READY: [bool; 3] = [true, true, false];

/// Reads what there is to come, to the end.
pub async fn rest_of(stream: &mut TcpStream) -> io::Result<String> {
    let mut text = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut text)).await.expect("it neither ends nor is cut")?;
    Ok(text)
}

// === impl Nodes ===

impl Nodes {
    async fn start(options: &ProxyOptions) -> Self {
        let cluster =
            Cluster::start(Options { dual_stack: true, ..Options::default() }).expect("starting the API");
        let client = cluster.client().expect("a client of the API");
        let proxy = ServiceProxy::start(&client, options);
        let site = Site::of(client);
        let service = json!({
            "metadata": {"name": "web"},
            "spec": {"ports": [{"name": "web", "port": 80}, {"name": "other", "port": 81}]},
        });
        let service = site.create(service).await;
        Self { site, proxy, service, _cluster: cluster }
    }

    /// Where the port `web` is reached on a node.
    pub fn web(&self, node: usize) -> SocketAddr {
        ServiceProxy::address(node, &self.service, 80)
    }

    /// Makes a slice, or makes it anew.
    pub async fn put(&self, slice: Value) {
        let name = slice["metadata"]["name"].as_str().expect("a slice's name").to_owned();
        match self.site.api::<EndpointSlice>().get_opt(&name).await.expect("asking for a slice") {
            None => drop(self.site.create::<EndpointSlice>(slice).await),
            Some(_) => drop(self.site.patch::<EndpointSlice>(&name, slice).await),
        }
    }

    /// Waits until the port `web` has these endpoints on a node.
    pub async fn until_sends(&self, node: usize, endpoints: &[SocketAddr]) {
        self.leads_at(node, self.web(node), endpoints).await;
    }

    /// Waits until an address and port have these endpoints on a node.
    pub async fn leads_at(&self, node: usize, address: SocketAddr, endpoints: &[SocketAddr]) {
        let until = self.proxy.until(node, address, |known| known == endpoints);
        let known = || self.proxy.endpoints(node, address);
        assert!(timeout(PATIENCE, until).await.is_ok(), "it sends to {:?}, not to {endpoints:?}", known());
    }

    /// Which endpoints many new connections meet.
    pub async fn met(&self, address: SocketAddr) -> BTreeSet<u16> {
        let mut met = BTreeSet::new();
        for _ in 0..MANY {
            met.insert(greeting(&mut TcpStream::connect(address).await.expect("connecting")).await);
        }
        met
    }
}

/// Which endpoint a new connection has met.
pub async fn greeting(stream: &mut TcpStream) -> u16 {
    timeout(PATIENCE, stream.read_u16()).await.expect("nothing comes").expect("a greeting")
}

// === impl Endpoint ===

impl Endpoint {
    pub async fn listen(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.expect("listening");
        let address = listener.local_addr().expect("its address");
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let _ = serve(stream, address.port()).await;
                });
            }
        });
        Self { address, task }
    }
}

impl Drop for Endpoint {
    /// New connections are refused; those that are there go on.
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, port: u16) -> io::Result<()> {
    stream.write_u16(port).await?;
    let (mut read, mut write) = stream.split();
    match tokio::io::copy(&mut read, &mut write).await? {
        0 => Ok(()),
        _ => write.write_all(b" and that is all").await,
    }
}
