//! What a daemon publishes about a resource, for its users.

use serde::{Deserialize, Serialize};

/// Something that happened to a resource, published where its users look first (an Event on the object).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceEvent {
    /// Whether it is as it should be.
    pub severity: Severity,
    /// What happened, in one word of UpperCamelCase: `ScaledToZero`, `WakeFailed`.
    pub reason: String,
    /// What happened, in a sentence.
    pub message: String,
}

/// Whether what happened is as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It is.
    Normal,
    /// Somebody should look; so is a severity of a later version.
    #[serde(other)]
    Warning,
}
