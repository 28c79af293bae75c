//! The DLX's state, as a whole.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use http::HeaderName;
use scaler_types::ServicePorts;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::{
    last_report::LastReport,
    resource::{Entry, Key, Registry},
    route::{Claim, Conflict, NameHeader, PathHeader, Peers, Table},
    serve::{Places, Timeouts},
    shared::Shared,
    stop::Routes,
    tcp::Ports,
    watch::Source,
};

/// After a list that did not bring the host that was asked for, unknown hosts are answered without another one for
/// this long: a client that asks for hosts at random must not keep the plugins busy.
pub const MISS_PAUSE: Duration = Duration::from_secs(1);

/// Connections that wait at once on ports of which nobody knows yet whose they are; more are not waited for.
const STRANGERS: usize = 1024;

/// The DLX's state.
#[derive(Debug)]
pub struct Dlx {
    /// What the resources share.
    pub shared: Arc<Shared>,
    /// All resources.
    pub registry: Registry,
    /// Which host, and which port, is whose.
    pub table: ArcSwap<Table>,
    /// The plugins that are followed.
    pub sources: Mutex<Vec<Arc<Source>>>,
    /// Told when the routes were rebuilt.
    pub routed: Notify,
    /// The ports that were bound for one resource each.
    pub ports: Ports,
    /// The ports that are bound for all of them, and whose each of them is can change.
    pub service_ports: Option<ServicePorts>,
    /// Connections that wait on ports of which nobody knows yet whose they are.
    pub strangers: Semaphore,
    /// Routes that name this DLX.
    pub routes: Arc<Routes>,
    /// Whose headers are believed.
    pub peers: Peers,
    /// The namespace of a resource that a header names without one.
    pub default_namespace: Option<String>,
    /// Flags that name headers, for all namespaces.
    pub name_header: Option<String>,
    /// See [`name_header`](Self::name_header).
    pub path_header: Option<String>,
    /// This incarnation, to the autoscaler.
    pub member: String,
    /// Connections are accepted.
    pub serving: AtomicBool,
    /// The first signal came: no route is to name this DLX any more.
    pub stopping: CancellationToken,
    /// Nobody comes any more: what is open is brought to its end.
    pub draining: CancellationToken,
    /// The report after the last request.
    pub last_report: LastReport,
    /// Room for connections: all of the process's descriptors taken by clients would leave none to reach a resource by.
    pub places: Arc<Places>,
    /// How long clients may take.
    pub timeouts: Timeouts,
    /// Connections that are open.
    connections: AtomicUsize,
    /// Told when the last connection was closed.
    closed: Notify,
    listings: AtomicU64,
    /// Held while the route table is made: whoever stores one later has seen more.
    routing: Mutex<()>,
    missed: Arc<tokio::sync::Mutex<Option<Listing>>>,
}

/// When the plugins were last asked on behalf of a request that nobody has.
#[derive(Clone, Copy, Debug)]
struct Listing {
    begun: Instant,
    ended: Instant,
}

/// Counts a connection as open until it is dropped.
#[derive(Debug)]
pub struct Open {
    dlx: Arc<Dlx>,
    _place: OwnedSemaphorePermit,
}

// === impl Dlx ===

impl Dlx {
    /// Nothing known yet.
    pub fn new(shared: Arc<Shared>, member: &str, draining: CancellationToken) -> Self {
        Self {
            shared,
            registry: Registry::default(),
            table: ArcSwap::default(),
            sources: Mutex::default(),
            routed: Notify::new(),
            ports: Ports::default(),
            service_ports: None,
            strangers: Semaphore::new(STRANGERS),
            routes: Routes::new(Duration::ZERO),
            peers: Peers::default(),
            default_namespace: None,
            name_header: None,
            path_header: None,
            member: member.to_owned(),
            serving: AtomicBool::new(false),
            stopping: CancellationToken::new(),
            draining,
            last_report: LastReport::default(),
            places: Places::new(usize::MAX, usize::MAX),
            timeouts: Timeouts::default(),
            connections: AtomicUsize::new(0),
            closed: Notify::new(),
            listings: AtomicU64::new(0),
            routing: Mutex::default(),
            missed: Arc::default(),
        }
    }

    /// The number of the next listing.
    pub fn next_listing(&self) -> u64 {
        self.listings.fetch_add(1, Ordering::Relaxed)
    }

    /// The resource of that key.
    pub fn entry(&self, key: &Key) -> Option<Arc<Entry>> {
        self.registry.get(key)
    }

    /// Makes the route table anew from what the resources are now.
    pub fn rebuild_routes(&self) {
        let _one_at_a_time = self.routing.lock().unwrap_or_else(PoisonError::into_inner);
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut headers = vec![NameHeader {
            name: HeaderName::from_static("x-resource-name"),
            path: Some(PathHeader::Whole(HeaderName::from_static("x-original-uri"))),
        }];
        let settings = sources.iter().map(|source| source.settings.load_full());
        let pairs = settings.map(|own| (own.target_name_header.clone(), own.target_path_header.clone()));
        for (name, path) in pairs.chain([(self.name_header.clone(), self.path_header.clone())]) {
            let Some(Ok(name)) = name.map(HeaderName::try_from) else { continue };
            let path = path.and_then(|path| HeaderName::try_from(path).ok()).map(PathHeader::Prefix);
            let header = NameHeader { name, path };
            if !headers.contains(&header) {
                // Before the built-in one: what was configured is stronger.
                headers.insert(0, header);
            }
        }
        let table = Table::new(&self.registry.all(), headers);
        let before = self.table.load();
        let known: HashSet<_> =
            before.conflicts.iter().map(|conflict| (&conflict.claim, &conflict.wants)).collect();
        for Conflict { claim, has, wants } in &table.conflicts {
            if known.contains(&(claim, wants)) {
                continue;
            }
            match claim {
                Claim::Host(host) => {
                    tracing::warn!(%host, %has, %wants, "two resources claim one host; the older one has it");
                }
                Claim::Port(port) => {
                    tracing::warn!(port, %has, %wants, "two resources claim one port; the older one has it");
                }
            }
        }
        drop(before);
        self.table.store(Arc::new(table));
        self.routed.notify_waiters();
    }

    /// Asks all plugins once more, on behalf of a request for a host or port that nobody has: one list however many such
    /// requests there are, and none right after one that brought nothing. Whether one was begun since `came`.
    pub async fn ask_again(&self, came: Instant) -> bool {
        let mut missed = self.missed.clone().lock_owned().await;
        match *missed {
            // While this one waited for its turn, perhaps.
            Some(Listing { begun, .. }) if begun >= came => return true,
            Some(Listing { ended, .. }) if ended.elapsed() < MISS_PAUSE => return false,
            _ => {}
        }
        let (begun, listing) = (Instant::now(), self.refresh());
        // Whoever asked may be gone before it ends; those who wait for their turn are not to begin another one then.
        let listed = self.shared.handle.spawn(async move {
            listing.await;
            *missed = Some(Listing { begun, ended: Instant::now() });
        });
        // An error: the runtime ends.
        let _ = listed.await;
        true
    }

    /// Has all plugins list everything, after this call and not before; the future waits for it, but not longer than a few
    /// seconds.
    pub fn refresh(&self) -> impl Future<Output = ()> + Send + use<> {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let refreshes: Vec<_> = sources
            .into_iter()
            .map(|source| self.shared.handle.spawn(async move { source.refresh().await }))
            .collect();
        async move {
            for refresh in refreshes {
                // An error: the runtime ends.
                let _ = refresh.await;
            }
        }
    }

    /// Why it is not ready, if it is not.
    pub fn ready(&self) -> Result<(), String> {
        if self.draining.is_cancelled() {
            return Err("draining".to_owned());
        }
        if self.stopping.is_cancelled() {
            return Err(format!("stopping: {}", self.routes));
        }
        self.places.ready()?;
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if sources.is_empty() {
            return Err("no plugin is at work yet".to_owned());
        }
        // A plugin that cannot list takes its own resources away, not everybody's.
        let serving = self.serving.load(Ordering::Relaxed);
        match sources.iter().find(|source| !serving && !source.has_listed()) {
            Some(source) => Err(format!(
                "plugin {} has not listed its resources in {} yet",
                source.kind, source.namespace
            )),
            None => Ok(()),
        }
    }

    /// Returns when every plugin has listed its resources once.
    pub async fn listed(&self) {
        loop {
            let mut routed = std::pin::pin!(self.routed.notified());
            // From here on a list is not missed.
            routed.as_mut().enable();
            let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if !sources.is_empty() {
                for source in sources {
                    source.first_list().await;
                }
                return;
            }
            routed.await;
        }
    }

    /// Returns when no connection is open.
    pub async fn quiet(&self) {
        while self.connections.load(Ordering::SeqCst) > 0 {
            self.closed.notified().await;
        }
    }

    /// Requests in flight and held, of all resources.
    pub fn busy(&self) -> u64 {
        self.registry.all().iter().map(|entry| entry.counts.under_way() + entry.queue.len() as u64).sum()
    }
}

// === impl Open ===

impl Open {
    /// One more is open.
    pub fn new(dlx: &Arc<Dlx>, place: OwnedSemaphorePermit) -> Self {
        dlx.connections.fetch_add(1, Ordering::SeqCst);
        Self { dlx: dlx.clone(), _place: place }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.dlx.connections.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.dlx.closed.notify_one();
        }
    }
}
