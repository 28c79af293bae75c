//! Intercepts Services while this process is the leader: one interceptor beside each cycle.
//!
//! It follows the resources that the plugin can intercept, and points each one's Services to where
//! [`protocol::interception_step`](scaler_types::protocol::interception_step) says, level-triggered: what is to be done follows from how things
//! are, whatever process crashed or changed something before. [`resource`] knows one resource, [`serving`] how the DLXs are, [`sync_dlxs`] has the plugin
//! update the DLX addresses, and [`table`] is what drain attempts and the admin port see.

mod interceptor;
mod readiness;
mod resource;
mod serving;
mod switchover;
mod sync_dlxs;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use interceptor::{Interceptor, InterceptorContext};
pub(crate) use readiness::{InterceptionConditions, InterceptionNotReady, check_ready};
pub(crate) use resource::{InterceptionStatus, is_up, last_used};
pub(crate) use serving::ServingDlxs;
pub(crate) use switchover::{Switchover, SwitchoverError};
pub(crate) use table::{InterceptionTable, PendingSwitchover, SwitchoverProgress};
