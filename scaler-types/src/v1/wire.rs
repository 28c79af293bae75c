//! The methods of an instance, their arguments and their errors, as JSON.

use serde::{Deserialize, Serialize};

use crate::{PluginContext, Record, ResourceEvent, ResourceId, ScaleError, Version};

/// The methods' names, with what each takes and gives.
pub mod method {
    /// `null` to a list of [`Resource`](crate::Resource).
    pub const GET_RESOURCES: &str = "get_resources";
    /// [`ScaleRequest`](crate::ScaleRequest) to `null`.
    pub const SET_SCALE: &str = "set_scale";
    /// `null` to a [`ResourceScalerConfig`](crate::ResourceScalerConfig) or `null`.
    pub const GET_CONFIG: &str = "get_config";
    /// [`ResourceId`](crate::ResourceId) to a string.
    pub const RESOLVE_SERVICE_NAME: &str = "resolve_service_name";
    /// [`ChangesRequest`](super::ChangesRequest) to [`Changes`](crate::Changes); of a metric source a list of URIs to a list of URIs.
    pub const CHANGES: &str = "changes";
    /// [`CompareAndSet`](super::CompareAndSet) to a [`Version`](crate::Version).
    pub const COMPARE_AND_SET: &str = "compare_and_set";
    /// [`InterceptionRequest`](crate::InterceptionRequest) to `null`.
    pub const SET_BACKEND: &str = "set_backend";
    /// A list of [`Dlx`](crate::Dlx) to `null`.
    pub const SYNC_DLXS: &str = "sync_dlxs";
    /// [`RestoreRequest`](crate::RestoreRequest) to `null`.
    pub const RESTORE: &str = "restore";
    /// [`PublishEvent`](super::PublishEvent) to `null`.
    pub const PUBLISH_EVENT: &str = "publish_event";
    /// Of a metric source: `null` to a [`MetricSourceDescription`](super::MetricSourceDescription).
    pub const DESCRIBE: &str = "describe";
    /// Of a metric source: a list of URIs to a list, in their order, of `{"Ok":` [`QueueReading`](crate::QueueReading)`}` or
    /// `{"Err":` [`QueueError`](crate::QueueError)`}`.
    pub const READ: &str = "read";
    /// `null` to `null`.
    pub const STOP: &str = "stop";
}

/// [`CreateRequest::interface`] of a [`ResourceScaler`](crate::ResourceScaler).
pub const RESOURCE_SCALER: &str = "resource_scaler";

/// [`CreateRequest::interface`] of a [`MetricSource`](crate::MetricSource).
pub const METRIC_SOURCE: &str = "metric_source";

/// The symbol that the library of a metric source exports beside its root module, so that a host knows its interface before
/// it runs anything of it. A library without it is a resource-scaler.
pub const METRIC_SOURCE_SYMBOL: &str = "scaler_metric_source";

/// The argument of [`Module::create`](super::Module::create).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CreateRequest<C = PluginContext> {
    /// The instance's interface: [`RESOURCE_SCALER`] or [`METRIC_SOURCE`]. A plugin without it answers [`Fault::Unsupported`].
    pub interface: String,
    /// What it starts with.
    #[serde(flatten)]
    pub context: C,
}

/// The answer to [`method::DESCRIBE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetricSourceDescription {
    /// [`MetricSource::SCHEMES`](crate::MetricSource::SCHEMES).
    pub schemes: Vec<String>,
}

/// The argument of [`method::CHANGES`] of a resource-scaler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangesRequest {
    /// Where the last answer ended; 0 knows nothing.
    pub cursor: u64,
}

/// The argument of [`method::COMPARE_AND_SET`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompareAndSet {
    /// Which resource.
    #[serde(flatten)]
    pub id: ResourceId,
    /// The version it must still have.
    pub expected: Version,
    /// The record to write.
    pub record: Record,
}

/// The argument of [`method::PUBLISH_EVENT`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishEvent {
    /// Which resource.
    #[serde(flatten)]
    pub id: ResourceId,
    /// The event to publish.
    pub event: ResourceEvent,
}

/// Why a call has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The author's own error, flattened to text: an error's source chain does not cross a library's boundary.
    #[error("{0}")]
    Failed(String),
    /// The author's code panicked; the message and where.
    #[error("the plugin panicked: {0}")]
    Panicked(String),
    /// The namespace file gives the plugin nothing to do.
    #[error("the namespace file does not configure it")]
    NotConfigured,
    /// The plugin was built before this method or interface existed.
    #[error("the plugin does not support {0}; build it with a newer scaler-types")]
    Unsupported(String),
    /// A scale or a write that did not happen, with the author's own verdict.
    #[error(transparent)]
    Scale(#[from] ScaleError),
}

// === impl Fault ===

impl Fault {
    /// As it crosses.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers have a JSON form")
    }

    /// The fault in this JSON. A kind of fault that this build does not know is a failure with its text.
    pub fn from_json(json: &str) -> Self {
        serde_json::from_str(json).unwrap_or_else(|_| Fault::Failed(json.to_owned()))
    }
}
