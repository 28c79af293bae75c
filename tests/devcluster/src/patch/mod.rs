//! Patches, as functions from a value to a value.

mod json;
mod merge;
mod raw;
mod strategic;

pub use self::{
    json::{MOST_OPERATIONS, Wrong, json},
    merge::merge,
    strategic::strategic,
};
