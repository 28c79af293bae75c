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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing to do.
    Normal,
    /// Users should look; so is a severity of a later version.
    #[serde(other)]
    Warning,
}

/// A kind of event: a reason, and whether users should look. Declared as a constant, so that all kinds stand in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventReason {
    name: &'static str,
    severity: Severity,
}

// === impl EventReason ===

impl EventReason {
    /// Nothing to do. `name` is one word of UpperCamelCase.
    pub const fn normal(name: &'static str) -> Self {
        Self { name, severity: Severity::Normal }
    }

    /// Something is wrong. `name` is one word of UpperCamelCase.
    pub const fn warning(name: &'static str) -> Self {
        Self { name, severity: Severity::Warning }
    }

    /// The reason in one word.
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// An event of this kind; `message` is a sentence.
    pub fn event(self, message: impl Into<String>) -> ResourceEvent {
        ResourceEvent { severity: self.severity, reason: self.name.to_owned(), message: message.into() }
    }
}
