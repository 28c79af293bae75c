//! What a daemon has to say about a resource, to the people who own it.

use serde::{Deserialize, Serialize};

/// Something that happened to a resource, for its owners to see where they look for it (an Event on the object).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Whether it is as it should be.
    pub severity: Severity,
    /// What, in one word of UpperCamelCase: `ScaledToZero`, `WakeFailed`.
    pub reason: String,
    /// What, in a sentence.
    pub message: String,
}

/// Whether what happened is as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It is.
    Normal,
    /// Somebody should look.
    Warning,
}
