//! The contract between Scaler and its plugins.
//!
//! A *resource-scaler* is a plugin, one shared library per kind of resource. Its author implements
//! [`ResourceScaler`] in ordinary asynchronous Rust and ends with one line, [`export_resource_scaler!`];
//! everything that crosses the library boundary is this crate's business (module [`v1`]).
//!
//! The crate also holds what both daemons and the model checker share: the [`protocol`] by which a resource goes
//! to zero without losing a request, as pure functions.

mod changes;
mod context;
pub mod duration;
pub mod protocol;
mod resource;
mod row;
pub mod rows;
mod scale;
mod scaler;
pub mod v1;
#[doc(hidden)]
pub mod yaml;

pub use changes::Changes;
pub use context::{PluginContext, ResourceScalerConfig, Role};
pub use resource::{Endpoint, Path, Port, Probe, Protocol, Resource, ResourceId, ScaleResource};
pub use row::{Nonce, Row, State, Version};
pub use scale::{ScaleError, ScaleEvent, ScaleRequest, Target};
pub use scaler::ResourceScaler;

/// What a plugin author's functions return: any error, with its causes.
pub use anyhow::Result;
