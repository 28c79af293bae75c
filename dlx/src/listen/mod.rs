//! Connections: accepted on one runtime, handed in turn to one thread per core, served there to their end.

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

/// What all connections are served with.
#[derive(Debug)]
pub(crate) struct Server {
    /// Finds out for whom requests are.
    pub(crate) identifier: Arc<Identifier>,
    /// Room for connections: all of the process's descriptors taken by clients would leave none to reach a resource by.
    pub(crate) slots: Arc<ConnectionSlots>,
    /// How long clients may take.
    pub(crate) timeouts: Timeouts,
    /// The threads' connections to resources.
    pub(crate) pools: Arc<Pools>,
    /// Nobody comes any more: what is open is brought to its end.
    pub(crate) draining: CancellationToken,
    /// Where connections are accepted on ports that come and go.
    pub(crate) handle: Handle,
    /// Counts that belong to no resource.
    pub(crate) metrics: Arc<DlxMetrics>,
}

/// Where a connection came in.
#[derive(Clone, Debug)]
pub(crate) enum ListenerKind {
    /// The shared port: the request says for whom it is.
    Shared,
    /// A port that was bound for one resource.
    Own(PortOwner),
    /// A port of `--service-ports`: bound always, and whose it is can change.
    Service(u16),
}
