//! Connections: accepted on one runtime, handed in turn to one thread per core, served there to their end.

mod accept;
pub mod alive;
mod connection;
mod framing;
pub(crate) mod head;
mod park;
mod places;
mod progress;
mod requests;
mod socket;
mod spoken;
mod timed;
mod tracked;
mod unread;
mod worker;

use std::sync::Arc;

pub use accept::Listener;
pub use park::Parked;
pub use places::{Clients, Places};
pub use progress::{Busy, Progress, Timeouts};
use scaler_types::Port;
pub use socket::Socket;
pub use worker::{Accepted, Workers};

use crate::resource::Entry;

/// A port of its own says for whom a connection is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// For whom.
    pub entry: Arc<Entry>,
    /// Which port.
    pub port: Port,
}

/// Where a connection came in.
#[derive(Clone, Debug)]
pub enum Door {
    /// The shared port: the request says for whom it is.
    Shared,
    /// A port that was bound for one resource.
    Own(Identity),
    /// A port of `--service-ports`: bound always, and whose it is can change.
    Service(u16),
}
