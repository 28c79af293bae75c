//! The cluster's objects, kept by watches.
//!
//! **Fresh enough.** Everything here is as old as its stream, which may stall. What is decided on it is therefore never
//! carried out on it: every write names the uid, generation and record it was decided on, and the API server refuses it
//! if any is another by then. A stale view can only fail. That goes for the autoscaler's `get_resources`; for a DLX,
//! which registers before its plugins start, the first lists are consistent reads made after that, and a DLX that sees
//! less than the newest drain does not confirm it.
//!
//! **In order.** What this process reads or writes itself is folded in at once. A state is taken over only if its
//! `resourceVersion` is higher than what is there, so a stream that is behind never brings back what was replaced.

mod change_log;
mod key_policy;
mod labels;
mod listed;
mod pods;
mod quarantine;
pub(crate) mod selector_conflicts;
pub(crate) mod start;
mod store;
pub(crate) mod table;
pub(crate) mod verify;
mod watch;

pub(crate) use listed::{ListedWorkload, MissingPodLabel, Project, Projection, Warning, joined};
pub(crate) use pods::UnverifiedPods;
pub(crate) use quarantine::PortQuarantine;
#[cfg(test)]
pub(crate) use quarantine::QUARANTINE;
pub(crate) use selector_conflicts::MAX_LOSSES;
pub(crate) use store::{Clock, ObjectChange, ObjectType, State, StateOrigin, Store};
pub(crate) use watch::ObjectWatch;
