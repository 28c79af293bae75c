//! A client's connection: its socket, what it is doing and for how long it may, and room for all of them.

pub mod alive;
mod places;
mod progress;
mod socket;
mod tracked;
mod unread;

pub use places::{Clients, Open, Places};
pub use progress::{Busy, Over, Progress, Timeouts};
pub use socket::Socket;
pub use tracked::{Stream, Streams, Tracked};
