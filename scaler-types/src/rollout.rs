//! How far what a resource runs now has been rolled out.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use crate::{duration, tolerant};

/// The rollout of what a resource runs now, where its plugin can tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// Stands for what it runs, its pod template, say: another one is another rollout. Opaque to the daemons.
    pub revision: String,
    /// How far it is.
    #[serde(deserialize_with = "RolloutPhase::deserialize_any")]
    pub phase: RolloutPhase,
    /// What it still waits for, for people; another text is progress.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// How long it may go without progress, where the resource itself says so.
    #[serde(default, with = "duration::go_option", skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Duration>,
}

/// How far a rollout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RolloutPhase {
    /// All of it was ready.
    Complete,
    /// Its deadline has passed without progress.
    Overdue,
    /// Not everything that is wanted runs yet, or nothing of it is ready; so is a phase of a later version.
    #[serde(other)]
    Progressing,
}

// === impl RolloutPhase ===

impl RolloutPhase {
    fn deserialize_any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(tolerant::option(deserializer)?.unwrap_or(Self::Progressing))
    }
}
