//! A DLX: its stages, wired to each other.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use daemon::wakes::Wakes;
use scaler_types::{ServicePorts, protocol::Rules};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::{
    client::{ConnectionSlots, ConnectionsFull, Timeouts},
    driver::{Driver, FollowedPlugins, PluginsNotReady},
    final_report::FinalReport,
    forward::http::Pools,
    identify::{Identifier, TrustedProxies},
    listen::{DedicatedPorts, Server},
    metrics::DlxMetrics,
    state::{Effect, HoldLimits, Interceptions, Resources, SharedState},
    stop::Stopping,
};

/// The configuration of a DLX.
#[derive(Debug)]
pub(crate) struct DlxConfig {
    /// The name of this DLX's registration.
    pub(crate) member: String,
    /// The protocol's rules.
    pub(crate) rules: Rules,
    /// The limits on what all resources hold together.
    pub(crate) held: HoldLimits,
    /// Concurrent wakes.
    pub(crate) wakes: usize,
    /// The endpoint propagation delay: how long clients may take to follow a change of a Service.
    pub(crate) endpoint_propagation_delay: std::time::Duration,
    /// The range of ports that is always bound; the owners of its ports change.
    pub(crate) service_ports: Option<ServicePorts>,
    /// The peers whose headers are trusted.
    pub(crate) peers: TrustedProxies,
    /// The namespace of a resource that a header names without one.
    pub(crate) default_namespace: Option<String>,
    /// Header names from flags, for all namespaces: the resource's, and the path's.
    pub(crate) headers: (Option<String>, Option<String>),
    /// Concurrent client connections.
    pub(crate) max_connections: usize,
    /// The limit on answer bytes that HTTP/2 clients have not taken.
    pub(crate) max_unread: usize,
    /// Timeouts of clients.
    pub(crate) timeouts: Timeouts,
    /// Whether plain HTTP/1.1 exchanges are relayed as bytes; otherwise the HTTP library forwards all. Tests compare the two.
    pub(crate) relay: bool,
    /// Cancelled at the first signal.
    pub(crate) signalled: CancellationToken,
}

/// A DLX.
#[derive(Debug)]
pub(crate) struct Stages {
    /// The name of this DLX's registration.
    pub(crate) member: String,
    /// What all resources share.
    pub(crate) shared: Arc<SharedState>,
    /// All resources, and the owners of hosts and ports.
    pub(crate) resources: Arc<Resources>,
    /// Probes, writes and wakes.
    #[cfg(test)]
    pub(crate) driver: Arc<Driver>,
    /// The plugins that it follows.
    pub(crate) plugins: Arc<FollowedPlugins>,
    /// What connections need.
    pub(crate) server: Arc<Server>,
    /// The ports of resources outside the range.
    pub(crate) ports: Arc<DedicatedPorts>,
    /// The range of ports that is always bound.
    pub(crate) service_ports: Option<ServicePorts>,
    /// The state of the shutdown.
    pub(crate) stopping: Arc<Stopping>,
    /// The final report of activity.
    pub(crate) last_report: FinalReport,
    /// Whether connections are accepted.
    pub(crate) serving: AtomicBool,
    /// Counts that belong to no resource.
    pub(crate) metrics: Arc<DlxMetrics>,
}

/// Why a DLX is not ready.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotReady {
    #[error("shutting down")]
    ShuttingDown,
    #[error("stopping: {0}")]
    Stopping(Arc<Interceptions>),
    #[error(transparent)]
    Connections(#[from] ConnectionsFull),
    #[error(transparent)]
    Plugins(#[from] PluginsNotReady),
}

// === impl Stages ===

impl Stages {
    /// Nothing is known yet. Tasks that are not part of a request run on the current runtime.
    pub(crate) fn new(config: DlxConfig) -> Self {
        let handle = Handle::current();
        let metrics = Arc::new(DlxMetrics::default());
        let driver = Driver::new(handle.clone(), Wakes::new(config.wakes), metrics.clone());
        let pools = Arc::new(Pools::default());
        let shared = SharedState::new(config.rules, config.held, {
            let (driver, pools) = (driver.clone(), pools.clone());
            move |resource, effect| match effect {
                Effect::CloseIdle(unlisted) => pools.close_idle(&unlisted),
                effect => driver.carry_out(resource, effect),
            }
        });
        let resources = Arc::new(Resources::default());
        let interceptions = Interceptions::new(config.endpoint_propagation_delay);
        let plugins = FollowedPlugins::new(
            handle,
            resources.clone(),
            shared.clone(),
            interceptions.clone(),
            &config.member,
            metrics.clone(),
            config.headers,
        );
        let identifier =
            Identifier::new(plugins.clone(), resources.clone(), config.peers, config.default_namespace);
        let draining = CancellationToken::new();
        let server = Arc::new(Server {
            identifier,
            slots: ConnectionSlots::new(config.max_connections, config.max_unread),
            timeouts: config.timeouts,
            relay: config.relay,
            pools,
            draining: draining.clone(),
            metrics: metrics.clone(),
        });
        Self {
            ports: DedicatedPorts::new(resources.clone(), config.service_ports),
            service_ports: config.service_ports,
            stopping: Arc::new(Stopping { signalled: config.signalled, draining, interceptions }),
            member: config.member,
            shared,
            resources,
            #[cfg(test)]
            driver,
            plugins,
            server,
            last_report: FinalReport::default(),
            serving: AtomicBool::new(false),
            metrics,
        }
    }

    /// Whether it is ready.
    pub(crate) fn ready(&self) -> Result<(), NotReady> {
        if self.stopping.draining.is_cancelled() {
            return Err(NotReady::ShuttingDown);
        }
        if self.stopping.signalled.is_cancelled() {
            return Err(NotReady::Stopping(self.stopping.interceptions.clone()));
        }
        self.server.slots.ready()?;
        Ok(self.plugins.ready(self.serving.load(Ordering::Relaxed))?)
    }

    /// Waits for the first signal, then until clients have stopped connecting, and starts the drain. When the signal
    /// came.
    pub(crate) async fn stop(&self, grace: std::time::Duration) -> tokio::time::Instant {
        let refresh = async {
            if self.service_ports.is_some() {
                self.plugins.refresh().await;
            }
        };
        self.stopping.follow(grace, refresh).await
    }

    /// Requests in flight and held, of all resources.
    pub(crate) fn busy(&self) -> u64 {
        self.resources
            .all()
            .iter()
            .map(|resource| resource.counts.under_way() + resource.queue.len() as u64)
            .sum()
    }
}
