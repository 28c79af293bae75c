//! Connections of clients: sockets, what each is doing, its timeouts, and the limit on their number.

pub(crate) mod alive;
mod progress;
mod slots;
mod socket;
mod timed;
mod tracked;
mod unread;

pub(crate) use progress::Timeouts;
pub(crate) use progress::{BusyGuard, ConnectionProgress, ExpiredTimeout};
pub(crate) use slots::{Clients, ConnectionGuard, ConnectionSlots, ConnectionsFull};
pub(crate) use socket::Socket;
pub(crate) use timed::Timed;
pub(crate) use tracked::{Stream, Streams, Tracked};
