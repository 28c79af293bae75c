//! The writes, in an order in which requests find somebody after each of them.

mod backend;
pub(crate) mod ports;
mod restore;
mod selector;
pub(crate) mod slices;
mod sync;
