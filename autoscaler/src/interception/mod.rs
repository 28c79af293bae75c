//! Leads routes while this process leads: one router beside each cycle.
//!
//! It follows what the plugin tells of the resources that have a route, and brings each route to where
//! [`protocol::route_step`](scaler_types::protocol::route_step) says, level-triggered: what is to be done follows from how things
//! are, whoever crashed or changed something before. [`resource`] knows one resource, [`dlxs`] how the DLXs are, [`sync`] has the plugin
//! name those that take requests now, and [`states`] is what a try and the admin port see.

mod dlxs;
mod interceptor;
mod readiness;
mod resource;
mod states;
mod switch;
mod sync;
#[cfg(test)]
mod tests;

pub use dlxs::Leading;
pub use interceptor::{Context, Router};
pub use readiness::{NotReady, RouteFacts, check_ready};
pub use resource::{RouteTold, is_up, last_used};
pub use states::{Confirmation, Progress, Routes};
pub use switch::{Switch, SwitchError};
