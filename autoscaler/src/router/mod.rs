//! Leads routes while this process leads: one router beside each cycle.
//!
//! It follows what the plugin tells of the resources that have a route, and brings each route to where
//! [`protocol::route_step`](scaler_types::protocol::route_step) says, level-triggered: what is to be done follows from how things
//! are, whoever crashed or changed something before. [`led`] knows one resource, [`dlxs`] how the DLXs are, [`tend`] has the plugin
//! name those that take requests now, [`follow`] reads the plugin's stream, and [`routes`] is what a try and the admin port see.

mod dlxs;
mod follow;
mod led;
mod routes;
mod run;
mod tend;
#[cfg(test)]
mod tests;

pub use dlxs::Leading;
pub(crate) use follow::{Told, follow};
pub use led::{RouteTold, is_up, last_used};
pub use routes::{Confirmation, Progress, Routes};
pub use run::Router;
