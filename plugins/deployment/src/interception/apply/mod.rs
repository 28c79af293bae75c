//! The writes, in an order in which every Service has an endpoint after each of them.

mod backend;
mod key_policy;
pub(crate) mod ports;
mod restore;
mod selector;
pub(crate) mod slices;
mod sync;
