//! The methods of an instance, their arguments and their errors, as JSON.

use serde::{Deserialize, Serialize};

use crate::{Report, ResourceId, Row, ScaleError, Version};

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
    /// [`Watch`](super::Watch) to [`Changes`](crate::Changes).
    pub const CHANGES: &str = "changes";
    /// [`CompareAndSet`](super::CompareAndSet) to a [`Version`](crate::Version).
    pub const COMPARE_AND_SET: &str = "compare_and_set";
    /// [`RouteRequest`](crate::RouteRequest) to `null`.
    pub const SET_ROUTE: &str = "set_route";
    /// A list of [`Dlx`](crate::Dlx) to `null`.
    pub const TEND_ROUTES: &str = "tend_routes";
    /// [`ReleaseRequest`](crate::ReleaseRequest) to `null`.
    pub const RELEASE: &str = "release";
    /// [`Told`](super::Told) to `null`.
    pub const REPORT: &str = "report";
    /// `null` to `null`.
    pub const STOP: &str = "stop";
}

/// The argument of [`method::CHANGES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
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
    /// What is to be written.
    pub row: Row,
}

/// The argument of [`method::REPORT`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Which resource.
    #[serde(flatten)]
    pub id: ResourceId,
    /// What is to be shown.
    pub report: Report,
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
    /// The plugin was built before this method existed.
    #[error("the plugin does not know the call {0}; build it with a newer scaler-types")]
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

    /// What crossed. A kind of fault that this build does not know is a failure with its text.
    pub fn from_json(json: &str) -> Self {
        serde_json::from_str(json).unwrap_or_else(|_| Fault::Failed(json.to_owned()))
    }
}
