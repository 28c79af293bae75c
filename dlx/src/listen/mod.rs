//! Connections: accepted on one of the threads, handed in turn to all of them, and served there to their end.

mod accept;
mod connection;
mod dedicated_ports;
mod framing;
mod park;
mod protocol;
mod request;
mod requests;
mod service_ports;
mod worker;

use std::{sync::Arc, time::Duration};

pub(crate) use dedicated_ports::DedicatedPorts;
use scaler_types::Protocol;
pub(crate) use service_ports::ServiceListeners;
use tokio_util::sync::CancellationToken;
pub(crate) use worker::Workers;

use crate::{
    client::{ConnectionSlots, Timeouts},
    forward::http::Pools,
    identify::Identifier,
    metrics::DlxMetrics,
    state::PortOwner,
};

/// The state that all connections share.
#[derive(Debug)]
pub(crate) struct Server {
    /// Finds the resource of a request.
    pub(crate) identifier: Arc<Identifier>,
    /// Slots for clients' connections: without a limit they would use up the descriptors that connections to resources
    /// need.
    pub(crate) slots: Arc<ConnectionSlots>,
    /// Timeouts of clients.
    pub(crate) timeouts: Timeouts,
    /// Whether plain HTTP/1.1 exchanges are relayed as bytes; otherwise the HTTP library forwards all.
    pub(crate) relay: bool,
    /// The connection pools of the threads.
    pub(crate) pools: Arc<Pools>,
    /// The DLX drains: open connections are brought to their end.
    pub(crate) draining: CancellationToken,
    /// Counts that belong to no resource.
    pub(crate) metrics: Arc<DlxMetrics>,
}

/// The kind of listener that accepted a connection.
#[derive(Clone, Debug)]
pub(crate) enum ListenerKind {
    /// The shared port: the request names its resource.
    Shared,
    /// A port that was bound for one resource.
    Own(PortOwner),
    /// A port of `--service-ports`: always bound; its owner can change.
    Service(u16),
}

// === impl ListenerKind ===

impl ListenerKind {
    /// How long clients may leave bytes unread on connections that it accepts; 0: for ever, as TCP does. A connection that
    /// turns out to be TCP changes that.
    fn stall(&self, server: &Server) -> Duration {
        match self {
            Self::Own(identity) if identity.port.protocol == Protocol::Tcp => Duration::ZERO,
            Self::Shared | Self::Own(_) | Self::Service(_) => server.timeouts.stall,
        }
    }
}
