//! Patches, as functions from a value to a value.

mod json;
mod merge;
mod raw;
mod strategic;

pub use self::{json::json, merge::merge, strategic::strategic};
