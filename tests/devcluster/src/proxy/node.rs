//! One node: it hears of changes late, and does what they say.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::{IpAddr, SocketAddr},
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    Counted, ProxyOptions,
    listen::{Port, Tasks},
    on_node, shared,
    view::View,
};
use crate::{
    cache::{Change, Key, rest},
    random::Random,
};

/// Where a node sends new connections, by its own addresses.
pub type Rules = BTreeMap<SocketAddr, Vec<SocketAddr>>;

/// What can be asked and ordered of a node.
pub struct Orders {
    /// What it does now.
    pub rules: watch::Sender<Rules>,
    /// It hears nothing.
    pub frozen: watch::Sender<bool>,
    lag: Mutex<Range<Duration>>,
}

/// A node at work.
pub struct Node {
    number: usize,
    seed: u64,
    orders: Arc<Orders>,
    view: View,
    ports: HashMap<SocketAddr, Port>,
    /// The addresses of each Service that they were opened for.
    open: HashMap<Key, Vec<SocketAddr>>,
    connections: Tasks,
    counts: Counted,
}

/// A change, and when the API reported it.
type Heard<K> = (Instant, Change<K>);

/// The changes of one kind, in their order and late.
struct Late<K> {
    heard: mpsc::UnboundedReceiver<Heard<K>>,
    /// The next one, and when it is known.
    next: Option<Heard<K>>,
    orders: Arc<Orders>,
    frozen: watch::Receiver<bool>,
    random: Random,
}

/// Sends a change to all nodes.
pub fn broadcast<K>(nodes: Vec<mpsc::UnboundedSender<Heard<K>>>) -> impl Fn(Change<K>) {
    move |change| {
        for node in &nodes {
            // Both end with the proxy.
            let _ = node.send((Instant::now(), shared(&change)));
        }
    }
}

// === impl Orders ===

impl Orders {
    /// From now on.
    pub fn set_lag(&self, lag: Range<Duration>) {
        *self.lag.lock().unwrap_or_else(PoisonError::into_inner) = lag;
    }

    fn lag(&self) -> Range<Duration> {
        self.lag.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Orders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Orders").field("rules", &*self.rules.borrow()).finish_non_exhaustive()
    }
}

// === impl Node ===

impl Node {
    /// A node that knows nothing yet.
    pub fn new(
        number: usize,
        options: &ProxyOptions,
        connections: Tasks,
        counts: Counted,
    ) -> (Self, Arc<Orders>) {
        let orders = Arc::new(Orders {
            rules: watch::channel(Rules::new()).0,
            frozen: watch::channel(false).0,
            lag: Mutex::new(options.lag.clone()),
        });
        let node = Self {
            number,
            seed: Random::new(options.seed, number as u64).draw(),
            orders: Arc::clone(&orders),
            view: View::default(),
            ports: HashMap::new(),
            open: HashMap::new(),
            connections,
            counts,
        };
        (node, orders)
    }

    /// Works until it hears no more. Nothing orders the changes of one kind and those of the other, as with two watches.
    pub async fn run(
        mut self,
        services: mpsc::UnboundedReceiver<Heard<Service>>,
        slices: mpsc::UnboundedReceiver<Heard<EndpointSlice>>,
    ) {
        let mut services = Late::new(services, &self.orders, Random::new(self.seed, 1));
        let mut slices = Late::new(slices, &self.orders, Random::new(self.seed, 2));
        loop {
            let changed = tokio::select! {
                Some(change) = services.next() => self.view.service(change),
                Some(change) = slices.next() => self.view.slice(change),
                else => return,
            };
            for service in changed {
                self.apply(&service).await;
            }
        }
    }

    /// Does what is known of a Service now.
    async fn apply(&mut self, service: &Key) {
        let rules = self.view.rules(service);
        let rules: Rules = rules
            .into_iter()
            .map(|((address, port), endpoints)| ((on_node(self.number, address), port).into(), endpoints))
            .collect();
        let affinity = self.view.affinity(service);
        let before = self.open.remove(service).unwrap_or_default();
        for address in before.iter().filter(|address| !rules.contains_key(*address)) {
            if let Some(port) = self.ports.remove(address) {
                port.close().await;
            }
        }
        for (address, endpoints) in &rules {
            let port = self.ports.entry(*address).or_insert_with(|| {
                let random = Random::new(self.seed, part_of(*address));
                Port::new(*address, service.clone(), random, self.connections.clone(), self.counts.clone())
            });
            port.lead_to(endpoints, affinity).await;
        }
        self.open.insert(service.clone(), rules.keys().copied().collect());
        self.orders.rules.send_modify(|known| {
            known.retain(|address, _| !before.contains(address));
            known.extend(rules);
        });
    }
}

fn part_of(address: SocketAddr) -> u64 {
    let number = match address.ip() {
        IpAddr::V4(address) => u64::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address) as u64,
    };
    number.rotate_left(16) ^ u64::from(address.port())
}

// === impl Late ===

impl<K> Late<K> {
    fn new(heard: mpsc::UnboundedReceiver<Heard<K>>, orders: &Arc<Orders>, random: Random) -> Self {
        let frozen = orders.frozen.subscribe();
        Self { heard, next: None, orders: Arc::clone(orders), frozen, random }
    }

    /// The next change once it is known. May be dropped and called again.
    async fn next(&mut self) -> Option<Change<K>> {
        if self.next.is_none() {
            let (heard, change) = self.heard.recv().await?;
            self.next = Some((heard + self.random.between(self.orders.lag()), change));
        }
        let due = self.next.as_ref().map(|(due, _)| due.saturating_duration_since(Instant::now()));
        if let Some(late) = due.filter(|late| !late.is_zero()) {
            rest(late).await;
        }
        // Its other end is in the orders.
        let _ = self.frozen.wait_for(|frozen| !frozen).await;
        self.next.take().map(|(_, change)| change)
    }
}
