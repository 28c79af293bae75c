//! The end-to-end harness: the real daemons, the real plugins and real sockets on one host.
//!
//! A [`Site`] is a temporary folder with plugins, state and namespace files; it starts [`Daemon`]s, knows where they
//! listen, collects their logs, and leaves nothing behind, whatever happens to the test. [`load`] are clients that never
//! retry; [`journal`] joins what they saw with what the resources wrote down.

pub mod admin;
pub mod binaries;
pub mod broker_proxy;
pub mod brokers;
pub mod counters;
pub mod cycles;
pub mod daemon;
pub mod journal;
pub mod kubernetes;
pub mod load;
pub mod member;
pub mod namespace;
pub mod ports;
pub mod processes;
pub mod random;
pub mod site;
pub mod traffic;
pub mod wait;
pub mod websocket;
pub mod without;
pub mod workers;

pub use daemon::Daemon;
pub use namespace::{Namespace, Service};
pub use site::Site;
pub use wait::until;
pub use workers::Workers;
