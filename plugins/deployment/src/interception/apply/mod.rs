//! The writes, in an order in which requests find somebody after each of them.

mod backend;
pub mod ports;
mod restore;
mod selector;
pub mod slices;
mod sync;
