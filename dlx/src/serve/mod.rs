//! Connections: accepted on one runtime, handed in turn to one thread per core, served there to their end.

mod accept;
pub mod alive;
mod connection;
mod lengths;
mod park;
mod socket;
mod worker;

use std::sync::Arc;

pub use accept::accept;
pub use park::Parked;
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
