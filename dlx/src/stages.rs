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

/// What a DLX is made with.
#[derive(Debug)]
pub(crate) struct DlxConfig {
    /// This incarnation, to the autoscaler.
    pub(crate) member: String,
    /// The protocol's rules.
    pub(crate) rules: Rules,
    /// What may be held in all.
    pub(crate) held: HoldLimits,
    /// Wakes at once.
    pub(crate) wakes: usize,
    /// How long whoever connects may take to follow a change of a route.
    pub(crate) endpoint_propagation_delay: std::time::Duration,
    /// The ports that are bound for all resources, and whose each of them is can change.
    pub(crate) service_ports: Option<ServicePorts>,
    /// Whose headers are believed.
    pub(crate) peers: TrustedProxies,
    /// The namespace of a resource that a header names without one.
    pub(crate) default_namespace: Option<String>,
    /// Flags that name headers, for all namespaces: the resource's, and the path's.
    pub(crate) headers: (Option<String>, Option<String>),
    /// Connections at once.
    pub(crate) max_connections: usize,
    /// Bytes that clients of HTTP/2 may leave unread.
    pub(crate) max_unread: usize,
    /// How long clients may take.
    pub(crate) timeouts: Timeouts,
    /// The first signal came.
    pub(crate) signalled: CancellationToken,
}

/// A DLX.
#[derive(Debug)]
pub(crate) struct Stages {
    /// This incarnation, to the autoscaler.
    pub(crate) member: String,
    /// What the resources have in common.
    pub(crate) shared: Arc<SharedState>,
    /// All resources, and which host and port is whose.
    pub(crate) resources: Arc<Resources>,
    /// Probes, writes, wakes.
    #[cfg(test)]
    pub(crate) driver: Arc<Driver>,
    /// The plugins that are followed.
    pub(crate) plugins: Arc<FollowedPlugins>,
    /// What connections are served with.
    pub(crate) server: Arc<Server>,
    /// The ports that were bound for one resource each.
    pub(crate) ports: Arc<DedicatedPorts>,
    /// The ports that are bound for all of them.
    pub(crate) service_ports: Option<ServicePorts>,
    /// How far its end is.
    pub(crate) stopping: Arc<Stopping>,
    /// The report after the last request.
    pub(crate) last_report: FinalReport,
    /// Connections are accepted.
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

// === impl DlxConfig ===

impl Default for DlxConfig {
    /// Everything is allowed, and nothing configured.
    fn default() -> Self {
        Self {
            member: "dlx".to_owned(),
            rules: Rules::default(),
            held: HoldLimits { requests: usize::MAX, bytes: u64::MAX },
            wakes: daemon::wakes::DEFAULT,
            endpoint_propagation_delay: std::time::Duration::ZERO,
            service_ports: None,
            peers: TrustedProxies::default(),
            default_namespace: None,
            headers: (None, None),
            max_connections: usize::MAX,
            max_unread: usize::MAX,
            timeouts: Timeouts::default(),
            signalled: CancellationToken::new(),
        }
    }
}

// === impl Stages ===

impl Stages {
    /// Nothing known yet. What is not a request's own work runs on the current runtime.
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
            handle.clone(),
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
            pools,
            draining: draining.clone(),
            handle,
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

    /// Why it is not ready, if it is not.
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

    /// Waits for the first signal, then until nobody is led here any more, and has it drain. When the signal came.
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
