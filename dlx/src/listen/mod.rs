//! Connections: accepted on one runtime, handed in turn to one thread per core, and served there to their end.

mod accept;
mod connection;
mod dedicated_ports;
mod framing;
mod park;
mod protocol;
mod request;
mod requests;
mod service_ports;
mod timed;
mod worker;

use std::sync::Arc;

pub(crate) use accept::Listener;
pub(crate) use dedicated_ports::DedicatedPorts;
pub(crate) use service_ports::ServiceListeners;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
pub(crate) use worker::{Accepted, Workers};

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
    /// The connection pools of the threads.
    pub(crate) pools: Arc<Pools>,
    /// The DLX drains: open connections are brought to their end.
    pub(crate) draining: CancellationToken,
    /// The runtime that accepts connections on ports that come and go.
    pub(crate) handle: Handle,
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
