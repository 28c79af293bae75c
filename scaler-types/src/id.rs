//! Which resource.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A resource's identity: namespace and name, always both.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ResourceId {
    /// The namespace the resource lives in.
    pub namespace: String,
    /// Its name, unique within the namespace and the plugin's kind.
    pub name: String,
}

// === impl ResourceId ===

impl ResourceId {
    /// An identity from its two parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
