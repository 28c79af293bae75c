//! The autoscaler: looks at all resources every scale interval and puts the idle ones to zero.
//!
//! The way of a decision: a [`cycle`] per plugin and namespace file asks the plugin for its resources and a metric
//! source ([`metrics`]) how busy they were, [`memory`] keeps what only time can tell, [`decide`] says keep or to zero,
//! and a [`fence`] puts one resource to zero without losing a request. Beside it a [`router`] leads the routes of the resources
//! that have one. [`api`] tells all of it.

pub mod api;
pub mod cli;
pub mod cycle;
pub mod decide;
pub mod fence;
pub mod flags;
pub mod http;
pub mod members;
pub mod memory;
pub mod metrics;
pub mod plugin;
pub mod router;
mod run;
pub mod telemetry;
#[cfg(test)]
mod testing;

pub use flags::Flags;
pub use run::run;
