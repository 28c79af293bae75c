//! Which objects a list or watch is about.

mod fields;
mod labels;

pub use self::{fields::FieldSelector, labels::LabelSelector};
use crate::store::Object;

/// Labels and fields that an object must have.
#[derive(Debug, Clone, Default)]
pub struct Selector {
    /// By labels.
    pub labels: LabelSelector,
    /// By fields.
    pub fields: FieldSelector,
}

// === impl Selector ===

impl Selector {
    /// Whether the object is one of those.
    pub fn matches(&self, object: &Object) -> bool {
        self.labels.matches(&object.metadata()["labels"]) && self.fields.matches(&object.value)
    }
}
