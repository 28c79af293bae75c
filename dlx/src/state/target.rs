//! An endpoint requests can be sent to.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use scaler_types::Endpoint;

/// The bits of a target's number that hold a port other than the listed one.
const PORT_SHIFT: u32 = 48;

static NEXT: AtomicU64 = AtomicU64::new(1);

/// One incarnation of an endpoint. Another incarnation at the same address is another target, and connections are
/// kept by [`number`](Self::number): none to an earlier incarnation is ever used.
#[derive(Debug)]
pub(crate) struct EndpointTarget {
    /// Unique in this process.
    pub(crate) number: u64,
    /// As the plugin lists it.
    pub(crate) endpoint: Endpoint,
    /// The address, unless it is a name.
    pub(crate) socket: Option<SocketAddr>,
    /// The requests of this DLX that are in flight there, whatever the port.
    in_flight: Arc<AtomicU64>,
}

/// An endpoint that is not listed any more, as long as requests may be in flight there.
#[derive(Debug)]
pub(super) struct DepartedEndpoint {
    /// Its [`Endpoint::incarnation`].
    pub(super) incarnation: String,
    in_flight: Arc<AtomicU64>,
}

// === impl EndpointTarget ===

impl EndpointTarget {
    /// A new incarnation.
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        let socket = endpoint.address.parse().ok();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { number, endpoint, socket, in_flight: Arc::default() }
    }

    /// The requests of this DLX that are in flight there.
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// What is left of it when it is not listed any more.
    pub(super) fn depart(&self) -> DepartedEndpoint {
        DepartedEndpoint { incarnation: self.endpoint.incarnation.clone(), in_flight: self.in_flight.clone() }
    }

    /// Counts one more there.
    pub(super) fn enter(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one less there.
    pub(super) fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// The endpoint at this port; without one, as listed.
    pub(crate) fn on_port(self: &Arc<Self>, port: Option<u16>) -> Arc<Self> {
        match port {
            Some(port) if self.socket.is_none_or(|own| own.port() != port) => Arc::new(self.with_port(port)),
            _ => self.clone(),
        }
    }

    fn with_port(&self, port: u16) -> Self {
        let address = match (self.socket, self.endpoint.address.rsplit_once(':')) {
            (Some(mut socket), _) => {
                socket.set_port(port);
                socket.to_string()
            }
            (None, Some((host, _))) => format!("{host}:{port}"),
            (None, None) => format!("{}:{port}", self.endpoint.address),
        };
        let endpoint = Endpoint { address, ..self.endpoint.clone() };
        let socket = endpoint.address.parse().ok();
        // The number keeps connections to different ports apart.
        let number = self.number | u64::from(port) << PORT_SHIFT;
        Self { number, endpoint, socket, in_flight: self.in_flight.clone() }
    }

    /// Whether it is [another port](Self::on_port) of an endpoint.
    pub(crate) fn is_other_port(&self) -> bool {
        self.number >> PORT_SHIFT != 0
    }

    /// The number of the listed endpoint.
    pub(crate) fn listed(number: u64) -> u64 {
        number & ((1 << PORT_SHIFT) - 1)
    }
}

// === impl DepartedEndpoint ===

impl DepartedEndpoint {
    /// The requests of this DLX that are in flight there.
    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether a request may be in flight there, or about to be.
    pub(super) fn is_used(&self) -> bool {
        Arc::strong_count(&self.in_flight) > 1
    }
}
