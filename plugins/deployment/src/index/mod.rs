//! What is known of the cluster, kept by watches.
//!
//! **Fresh enough.** Everything here is as old as its stream, which may stall. What is decided on it is therefore never
//! carried out on it: every write names the uid, generation and record it was decided on, and the API server refuses it
//! if any is another by then. A stale view can only fail. That goes for the autoscaler's `get_resources`; for a DLX,
//! which registers before its plugins start, the first lists are consistent reads made after that, and a DLX that sees
//! less than the newest fence does not confirm it.
//!
//! **In order.** What this process reads or writes itself is folded in at once. A state is taken over only if its
//! `resourceVersion` is higher than what is there, so a stream that is behind never brings back what was replaced.

mod change_log;
mod labels;
mod listed;
mod pods;
mod quarantine;
pub mod selector_conflicts;
pub mod start;
mod store;
pub mod table;
pub mod verify;
mod watch;

pub use listed::{Complaint, Listed, Project, Projection, Unlabelled, joined};
pub use pods::Doubt;
#[cfg(test)]
pub use quarantine::QUARANTINE;
pub use quarantine::Quarantine;
pub use selector_conflicts::OFTEN;
pub use store::{Change, Clock, State, Store, Teller, Topic};
pub use watch::{Feed, spawn};
