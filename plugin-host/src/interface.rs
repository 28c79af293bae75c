//! What a plugin's library implements.

use std::path::Path;

use crate::LoadError;

/// The folder of the metric sources' libraries, below the plugins' folder.
pub const METRIC_SOURCES_FOLDER: &str = "metric-sources";

/// What a library implements. Each interface has a folder of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Interface {
    /// [`ResourceScaler`](scaler_types::ResourceScaler): in the plugins' folder.
    ResourceScaler,
    /// [`MetricSource`](scaler_types::MetricSource): in [`METRIC_SOURCES_FOLDER`], which the autoscaler alone opens.
    MetricSource,
}

// === impl Interface ===

impl Interface {
    /// Its name for users.
    pub fn name(self) -> &'static str {
        match self {
            Self::ResourceScaler => "resource-scaler",
            Self::MetricSource => "metric source",
        }
    }

    /// Why a library of this interface is not loaded from `folder`, that of the other.
    pub(crate) fn misplaced(self, folder: &Path) -> LoadError {
        match self {
            Self::ResourceScaler => LoadError::Misplaced {
                what: "a resource-scaler in the folder of the metric sources",
                right: folder.parent().unwrap_or(folder).to_owned(),
            },
            Self::MetricSource => LoadError::Misplaced {
                what: "a metric source in the folder of the resource-scalers",
                right: folder.join(METRIC_SOURCES_FOLDER),
            },
        }
    }
}
