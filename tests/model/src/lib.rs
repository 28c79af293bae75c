//! The sleep protocol, model-checked: [`model::Model`] drives the very `Gate`, `Fence`, `transition` and `recover` of the
//! daemons through every order of events within a budget; `tests/` has the scenarios and the seeded faults.

pub mod canon;
pub mod event;
pub mod explore;
pub mod fault;
pub mod model;
pub mod step;
pub mod world;
