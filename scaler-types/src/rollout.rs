//! The rollout of a resource's current revision.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use crate::{duration, tolerant};

/// The rollout of a resource's current revision, where its plugin knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// Identifies the revision, by its pod template for instance: another value is another rollout. Opaque to the daemons.
    pub revision: String,
    /// How far it is.
    #[serde(deserialize_with = "RolloutPhase::deserialize_any")]
    pub phase: RolloutPhase,
    /// The reason it is not complete, for people to read; a changed text counts as progress.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// How long it may go without progress, if the resource itself sets that.
    #[serde(default, with = "duration::go_option", skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Duration>,
}

/// How far a rollout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RolloutPhase {
    /// All of it was ready once.
    Complete,
    /// Its deadline has passed without progress.
    Overdue,
    /// Not all replicas are of the revision yet, or none is ready; so is a phase of a later version.
    #[serde(other)]
    Progressing,
}

// === impl RolloutPhase ===

impl RolloutPhase {
    fn deserialize_any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(tolerant::option(deserializer)?.unwrap_or(Self::Progressing))
    }
}
