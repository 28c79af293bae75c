//! How a cluster is started.

use std::{net::SocketAddr, time::Duration};

/// How a cluster is started. Each `no_*` takes one of the API's guarantees away, to see that a test notices.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the API listens; port 0 takes a free one.
    pub address: SocketAddr,
    /// Changes of each resource that are remembered for watches. The real server's cache holds 100 to 102,400.
    pub log_capacity: usize,
    /// How often a quiet watch that asked for bookmarks gets one. The real server's is a minute; shorter here, so that tests see some.
    pub bookmark_interval: Duration,
    /// Whether Services can have IPv6 addresses beside those of IPv4. Pods have them by [`crate::node::NodeOptions::dual_stack`].
    pub dual_stack: bool,
    /// Whether the custom metrics API is registered: discovery lists it, and it answers what [`crate::CustomMetrics`] has.
    pub custom_metrics: bool,
    /// Writes never conflict: neither a resourceVersion nor a patch's `test` is looked at.
    pub no_conflict: bool,
    /// A watch from a forgotten version starts silently at now.
    pub no_gone: bool,
    /// Ordered stalls of watches do not happen.
    pub no_stall: bool,
    /// Everybody with a token may do everything.
    pub no_rbac: bool,
}

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            log_capacity: 20_000,
            bookmark_interval: Duration::from_secs(10),
            dual_stack: false,
            custom_metrics: false,
            no_conflict: false,
            no_gone: false,
            no_stall: false,
            no_rbac: false,
        }
    }
}
