//! Backend routes while this process leads: one router beside each cycle.
//!
//! It follows what the plugin tells of the resources that have a route, and brings each route to where
//! [`protocol::interception_step`](scaler_types::protocol::interception_step) says, level-triggered: what is to be done follows from how things
//! are, whoever crashed or changed something before. [`resource`] knows one resource, [`serving`] how the DLXs are, [`sync_dlxs`] has the plugin
//! name those that take requests now, and [`table`] is what a try and the admin port see.

mod interceptor;
mod readiness;
mod resource;
mod serving;
mod switchover;
mod sync_dlxs;
mod table;
#[cfg(test)]
mod tests;

pub use interceptor::{Context, Interceptor};
pub use readiness::{InterceptionConditions, InterceptionNotReady, check_ready};
pub use resource::{InterceptionStatus, is_up, last_used};
pub use serving::ServingDlxs;
pub use switchover::{Switchover, SwitchoverError};
pub use table::{InterceptionTable, PendingSwitchover, SwitchoverProgress};
