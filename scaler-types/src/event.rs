//! Events that a daemon publishes for a resource's users.

use serde::{Deserialize, Serialize};

/// Something that happened to a resource, published where its users look first (an Event on the object).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceEvent {
    /// Whether users should look.
    pub severity: Severity,
    /// What happened, in one word of UpperCamelCase: `ScaledToZero`, `WakeFailed`.
    pub reason: String,
    /// What happened, in a sentence.
    pub message: String,
}

/// Whether users should look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing to do.
    Normal,
    /// Users should look; so is a severity of a later version.
    #[serde(other)]
    Warning,
}
