//! What changed since a plugin was last asked.

use serde::{Deserialize, Serialize};

use crate::{Resource, ResourceId};

/// The answer of [`ResourceScaler::changes`](crate::ResourceScaler::changes).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Changes {
    /// Where this answer ends: what to ask with next. Never 0.
    pub cursor: u64,
    /// `resources` is all there is; whatever is not in it is gone.
    #[serde(default)]
    pub complete: bool,
    /// Resources that are new or changed.
    #[serde(default)]
    pub resources: Vec<Resource>,
    /// Resources that are gone.
    #[serde(default)]
    pub removed: Vec<ResourceId>,
}
