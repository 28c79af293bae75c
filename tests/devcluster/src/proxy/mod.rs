//! Services' addresses, as kube-proxy has them on each node, and in userspace.
//!
//! | in a cluster | here |
//! |---|---|
//! | a node | a number from 0; all are in one network, so each has Services' addresses of its own: a cluster IP `10.96.x.y` is `10.96.x.y` on node 0, `10.97.x.y` on node 1, and so on, `fd00:10:96::x` is `fd00:10:97::x` on node 1 ([`ServiceProxy::addresses`]) |
//! | a node port is reached by each address of a node | by `127.0.0.1` on node 0, `127.1.0.1` on node 1, and so on; IPv4 only |
//! | the kernel's rules follow the API within moments | each node's view is late, by a time drawn anew for each change ([`ProxyOptions::lag`]); changes of one kind keep their order |
//! | no endpoint: the packet is rejected | nothing listens: the connection is refused |
//! | the endpoint refuses | so far the connection was accepted: it is reset |
//! | session affinity by client address, until the endpoint is none any more or some time has passed | the same for any time; all clients of a node's addresses are one |
//! | a connection stays with its endpoint, whatever the rules say later | the same; half-closes and resets pass through, and nothing is tried twice |
//!
//! All slices of a Service count, whichever controller manages them, by their own ports. Ready endpoints take connections; where there is none, those
//! that end and still serve do. TCP only; traffic policies and hints of zones are not done.

mod listen;
mod node;
mod splice;
mod view;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{Api, Client, api::ListParams};
use tokio::{sync::mpsc, task::JoinSet};

use self::{
    listen::Tasks,
    node::{Node, Orders},
    view::View,
};
use crate::cache::{Cache, Change, Key};

/// A node hears of everything at once.
pub const NO_LAG: Range<Duration> = Duration::ZERO..Duration::ZERO;
/// As many as [`crate::netns::SERVICE_NETWORK`] has room for.
const MOST_NODES: usize = 16;

/// How the nodes are.
#[derive(Clone, Debug)]
pub struct ProxyOptions {
    /// How many: 1 to 16.
    pub nodes: usize,
    /// How late they hear of a change: a time of this range, drawn anew for each.
    pub lag: Range<Duration>,
    /// What lags and the choice of endpoints are drawn from.
    pub seed: u64,
}

/// What became of a Service's connections, on all nodes. Those that found no listener are known to their clients alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Led to an endpoint that took them.
    pub forwarded: u64,
    /// Led to an endpoint that did not.
    pub refused: u64,
    /// Of those that were forwarded: cut by a reset, of either side.
    pub reset: u64,
}

/// The nodes' service proxies, until this is dropped: then all their connections are cut.
#[derive(Debug)]
pub struct ServiceProxy {
    nodes: Vec<Arc<Orders>>,
    counts: Counted,
    connections: Tasks,
    _tasks: JoinSet<()>,
}

/// The counts by Service.
type Counted = Arc<Mutex<BTreeMap<Key, Counts>>>;

// === impl ProxyOptions ===

impl Default for ProxyOptions {
    /// Two nodes that are up to three seconds late.
    fn default() -> Self {
        Self { nodes: 2, lag: Duration::ZERO..Duration::from_secs(3), seed: 0 }
    }
}

// === impl ServiceProxy ===

impl ServiceProxy {
    /// Starts them, in a network namespace where they can listen ([`crate::netns`]).
    ///
    /// # Panics
    ///
    /// There are more nodes than have room.
    pub fn start(client: &Client, options: &ProxyOptions) -> Self {
        let most = MOST_NODES;
        assert!((1..=most).contains(&options.nodes), "{} nodes: 1 to {most} can be had", options.nodes);
        let (counts, connections) = (Counted::default(), Tasks::default());
        let mut tasks = JoinSet::new();
        let mut nodes = Vec::new();
        let (mut of_services, mut of_slices) = (Vec::new(), Vec::new());
        for number in 0..options.nodes {
            let (services, changed_services) = mpsc::unbounded_channel();
            let (slices, changed_slices) = mpsc::unbounded_channel();
            of_services.push(services);
            of_slices.push(slices);
            let (node, orders) = Node::new(number, options, connections.clone(), counts.clone());
            nodes.push(orders);
            tasks.spawn(node.run(changed_services, changed_slices));
        }
        let services = Cache::<Service>::new(|_| Vec::new());
        tasks.spawn(services.follow(Api::all(client.clone()), node::broadcast(of_services), || {}));
        let slices = Cache::<EndpointSlice>::new(|_| Vec::new());
        tasks.spawn(slices.follow(Api::all(client.clone()), node::broadcast(of_slices), || {}));
        Self { nodes, counts, connections, _tasks: tasks }
    }

    /// Where a Service's port is reached on a node: by the first of its addresses.
    ///
    /// # Panics
    ///
    /// The Service has no cluster IP.
    pub fn address(node: usize, service: &Service, port: u16) -> SocketAddr {
        let first = Self::addresses(node, service, port).first().copied();
        first.unwrap_or_else(|| panic!("no cluster IP: {:?}", service.metadata.name))
    }

    /// The same by all of them, in the Service's order of families.
    pub fn addresses(node: usize, service: &Service, port: u16) -> Vec<SocketAddr> {
        view::cluster_ips(service).map(|address| (on_node(node, address), port).into()).collect()
    }

    /// Where a kube-proxy that has followed all changes sends new connections to a port of a Service, by the first of its
    /// families: as the API has Service and slices now, in any cluster.
    ///
    /// # Errors
    ///
    /// The API's.
    pub async fn endpoints_now(
        client: &Client,
        namespace: &str,
        service: &str,
        port: u16,
    ) -> kube::Result<Vec<SocketAddr>> {
        let of = ListParams::default().labels(&format!("{}={service}", view::SERVICE));
        let slices = Api::<EndpointSlice>::namespaced(client.clone(), namespace).list(&of).await?;
        let service = Api::<Service>::namespaced(client.clone(), namespace).get(service).await?;
        let key = Key::of(&service);
        let mut view = View::default();
        view.service(Change { old: None, new: Some(Arc::new(service)) });
        for slice in slices {
            view.slice(Change { old: None, new: Some(Arc::new(slice)) });
        }
        let rules = view.rules(&key);
        Ok(rules
            .into_iter()
            .find(|((_, of), _)| *of == port)
            .map(|(_, endpoints)| endpoints)
            .unwrap_or_default())
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Where a node sends new connections to an address of its own; nowhere, if that is empty.
    pub fn endpoints(&self, node: usize, address: SocketAddr) -> Vec<SocketAddr> {
        self.nodes[node].rules.borrow().get(&address).cloned().unwrap_or_default()
    }

    /// Waits until a node sends new connections to `address` as wanted; it does from then on.
    pub async fn until(&self, node: usize, address: SocketAddr, wanted: impl Fn(&[SocketAddr]) -> bool) {
        let mut rules = self.nodes[node].rules.subscribe();
        let fits = |rules: &node::Rules| wanted(rules.get(&address).map(Vec::as_slice).unwrap_or_default());
        rules.wait_for(fits).await.expect("the node's orders hold the other end");
    }

    /// The node hears nothing from now on, not even what is on its way to it.
    pub fn freeze(&self, node: usize) {
        self.nodes[node].frozen.send_replace(true);
    }

    /// It hears again: first of what it missed.
    pub fn thaw(&self, node: usize) {
        self.nodes[node].frozen.send_replace(false);
    }

    /// How late the node hears of what changes from now on.
    pub fn set_lag(&self, node: usize, lag: Range<Duration>) {
        self.nodes[node].set_lag(lag);
    }

    /// What became of a Service's connections so far.
    pub fn counts(&self, namespace: &str, service: &str) -> Counts {
        let key = Key { namespace: namespace.to_owned(), name: service.to_owned() };
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).get(&key).copied().unwrap_or_default()
    }
}

impl Drop for ServiceProxy {
    fn drop(&mut self) {
        self.connections.end();
    }
}

/// The address by which a cluster IP is reached on a node.
fn on_node(node: usize, address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let [first, second, third, fourth] = address.octets();
            [first, second.wrapping_add(node as u8), third, fourth].into()
        }
        IpAddr::V6(address) => {
            let mut parts = address.segments();
            parts[2] = parts[2].wrapping_add(node as u16);
            parts.into()
        }
    }
}

fn count(counts: &Counted, service: &Key, add: impl FnOnce(&mut Counts)) {
    add(counts.lock().unwrap_or_else(PoisonError::into_inner).entry(service.clone()).or_default());
}

/// A change as several can have it.
fn shared<K>(change: &Change<K>) -> Change<K> {
    Change { old: change.old.clone(), new: change.new.clone() }
}
