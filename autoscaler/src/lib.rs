//! The autoscaler: looks at all resources every scale interval and scales the idle ones to zero.
//!
//! Modules, each importing only those below it:
//!
//! - [`run`](mod@run): the daemon's life, and [`cli`]: the commands beside it.
//! - [`admin`]: what the admin port answers.
//! - [`cycle`]: one loop per plugin and namespace file: observe, decide, drain; keeps the state of each resource.
//! - [`drain`]: one attempt to scale a resource to zero without losing a request.
//! - [`scaling`]: chooses the replicas of the resources with a target, and wakes those that a metric wants awake.
//! - [`decide`]: the pure function that says keep or to zero.
//! - [`interception`]: points Services at the DLXs, and says whether that allows a resource to be scaled down.
//! - [`observe`]: the DLXs' reports, metric sources, and the changes that a plugin lists.
//! - [`plugin`], [`telemetry`], [`metrics`], [`http`]: the calls of a plugin, the values of the metrics, their declarations, an HTTP
//!   client.

mod admin;
mod cli;
mod cycle;
mod decide;
mod drain;
mod flags;
mod http;
mod interception;
mod metrics;
mod observe;
mod plugin;
mod run;
mod scaling;
mod telemetry;
#[cfg(test)]
mod testing;

pub use flags::AutoscalerFlags;
pub use metrics::METRICS;
pub use run::run;
