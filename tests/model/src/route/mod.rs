//! The route of one resource, model-checked.

pub mod event;
pub mod fault;
pub mod model;
pub mod step;
pub mod world;
