//! The changes of a plugin's resources since a cursor.

use serde::{Deserialize, Serialize};

use crate::{Resource, ResourceId};

/// The answer of [`ResourceScaler::changes`](crate::ResourceScaler::changes).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Changes {
    /// The cursor of the next call. Never 0.
    pub cursor: u64,
    /// `resources` are all there are; any other is gone.
    #[serde(default)]
    pub complete: bool,
    /// Resources that are new or changed.
    #[serde(default)]
    pub resources: Vec<Resource>,
    /// Resources that are gone.
    #[serde(default)]
    pub removed: Vec<ResourceId>,
}
