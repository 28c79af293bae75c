//! The sleep protocol: how a resource goes to zero and back without losing a request.
//!
//! Pure functions and small state machines, without input or output. The autoscaler drives a [`Drain`], every DLX a
//! [`Gate`] per resource, and the model checker explores these very types. All they share is the resource's
//! [`Record`], changed by compare-and-set alone:
//!
//! 1. The autoscaler writes `draining` with a fresh nonce, *then* reads who the members are, then asks each DLX to
//!    confirm "I see this nonce, nothing is in flight here, I hold what comes".
//! 2. All confirmed: one compare-and-set writes `asleep` together with the scale of zero. Anything else: revert.
//! 3. A DLX that sees `draining` forwards nothing. A request that comes makes it write `active` first; the
//!    autoscaler's commit then finds another version and changes nothing.
//!    In traffic mode `when-asleep`, where requests pass no DLX while it is awake, the Service is intercepted first
//!    ([`interception_step`]), and the resource must be seen idle once more after all nodes have followed.
//!    Record and interception are two objects. So a commit rewrites the interception before the record (a Service's key
//!    gets the drain attempt's nonce as its value), on the very version that has pointed to the DLXs for long enough, and
//!    then reads which DLXs it names.
//!    A restore reads the interception first, the record after that, and removes only what it has read: it finds the
//!    drain, or the commit's write makes it fail.
//! 4. A request that finds the resource asleep makes its DLX write `waking` together with the scale.
//! 5. The leader wakes by a metric: it writes `active` together with the scale, so that no wake of its own is left to be
//!    finished. A DLX forwards all the same only to what it has probed.
//! 6. While it is awake the leader changes the number of replicas, record and scale in one write with a fresh nonce: a
//!    drain attempt or a resize that was decided on before that changes nothing any more. While it is waking the record stays as it is,
//!    so that those who work on the wake go on. In `draining`, `asleep` and `failed` there is no resize.
//!
//! Why this is enough: a DLX that was a member when the membership was read has confirmed, and from then on forwards
//! only after a write that makes the commit fail. One that was not has registered later than `draining` was written,
//! lists after registering, and so has seen `draining` before it forwards anything.

mod drain;
mod gate;
mod interception;
mod reports;

pub use drain::{Drain, DrainInput, DrainOrder, Outcome};
pub use gate::{Gate, GateInput, GateOrder, Refusal};
pub use interception::{Dlxs, InterceptionSeen, interception_step};
pub use reports::{Gap, Reports};

use crate::{Nonce, Phase, Record, Version};

/// The state of a resource, as a daemon last saw it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Seen {
    /// Its record.
    pub record: Record,
    /// The version record and scale had.
    pub version: Version,
    /// Whether it has replicas.
    pub scaled: bool,
}

/// A change of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Try to put it to sleep.
    Drain,
    /// Give that up.
    Revert,
    /// To zero; written with the scale.
    Commit,
    /// From zero; written with the scale.
    Wake,
    /// It is up.
    Finish,
    /// It cannot come up.
    Fail,
    /// Another number of replicas, never none; written with the scale, by the leader.
    Resize,
    /// From zero, for a reason that is no request; written with the scale, by the leader.
    WakeByLeader,
}

/// Why a write did not happen, as far as the protocol cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unwritten {
    /// The version was another by then.
    Conflict,
    /// Refused, or the result is not known: it may have happened.
    Unknown,
}

/// The protocol's rules. The daemons run with all of them; the model checker and the tests leave one out at a time to
/// show that each is needed and that its loss is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rules {
    /// A commit changes nothing unless the version is still the drain attempt's own.
    pub commit_tests_version: bool,
    /// A DLX confirms only the nonce it sees itself.
    pub confirm_tests_nonce: bool,
    /// A DLX confirms only while nothing is in flight.
    pub confirm_counts_in_flight: bool,
    /// A request that finds a drain attempt is forwarded only after the revert was written.
    pub revert_before_forward: bool,
    /// A write's success changes a DLX's view only if it has seen nothing newer since.
    pub own_write_is_ordered: bool,
    /// A commit waits for every member.
    pub wait_for_all: bool,
    /// Members are read after the drain attempt was written.
    pub members_after_fence: bool,
    /// In traffic mode `when-asleep` a commit waits until everybody has followed the route to the DLXs, and the resource was seen idle after
    /// that.
    pub switch_before_commit: bool,
}

/// The record after `step`, or `None` where the step does not apply: another process was faster.
pub fn transition(seen: &Seen, step: Step, nonce: Nonce, reason: &str) -> Option<Record> {
    use Phase::{Active, Asleep, Draining, Failed, Waking};
    if seen.record.format > Record::FORMAT {
        return None;
    }
    let state = match (step, seen.record.phase, seen.scaled) {
        (Step::Drain, Active | Failed, true) => Draining,
        (Step::Revert, Draining, _) => Active,
        (Step::Commit, Draining, _) => Asleep,
        (Step::Wake, Asleep | Failed, _) | (Step::Wake, Active | Draining | Waking, false) => Waking,
        (Step::Finish, Waking, _) | (Step::Finish, Asleep, true) => Active,
        (Step::Fail, Waking | Asleep, _) | (Step::Fail, Active, false) => Failed,
        (Step::Resize, Active, true) => Active,
        // Its wake is the work of others, who know it by its record.
        (Step::Resize, Waking, true) => return Some(seen.record.clone()),
        // Active without replicas: the write was half of a wake whose process died, or a person scaled it to zero.
        (Step::WakeByLeader, Asleep | Failed, _) | (Step::WakeByLeader, Active, false) => Active,
        _ => return None,
    };
    let failed_wake = match step {
        Step::Fail => reason.to_owned(),
        // No step follows a wake by the leader. If it fails, too, the plugin's answer says so.
        Step::Finish | Step::WakeByLeader => String::new(),
        Step::Drain | Step::Revert | Step::Commit | Step::Wake | Step::Resize => {
            seen.record.failed_wake.clone()
        }
    };
    Some(Record { phase: state, nonce, reason: reason.to_owned(), failed_wake, format: Record::FORMAT })
}

/// How a wake goes that this process only looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WakeSeen<'a> {
    /// It has not taken longer than it may.
    InTime,
    /// It has, and the resource is ready.
    Ready,
    /// It has, and the resource is not ready: why.
    NotReady(&'a str),
    /// It has, and the resource's readiness is not known.
    Unknown,
}

/// The record that the leader writes where no process works on it any more: a daemon may have died between any two steps,
/// or a person scaled manually.
///
/// `mine` is whether this process's own drain attempt is under way.
pub fn recover(seen: &Seen, mine: bool, wake: WakeSeen<'_>, nonce: Nonce) -> Option<Record> {
    const LEFT: &str = "its wake was abandoned";
    let (step, reason) = match (seen.record.phase, seen.scaled, wake) {
        (Phase::Draining, ..) if !mine => (Step::Revert, "its drain attempt was abandoned"),
        (Phase::Asleep, true, _) => (Step::Finish, "scaled up manually"),
        (Phase::Waking, _, WakeSeen::InTime) => return None,
        (Phase::Waking, true, WakeSeen::Ready) => (Step::Finish, "it is ready"),
        (Phase::Waking, true, WakeSeen::Unknown) => (Step::Finish, LEFT),
        (Phase::Waking, _, WakeSeen::NotReady(why)) => (Step::Fail, why),
        (Phase::Waking, false, WakeSeen::Ready | WakeSeen::Unknown) => (Step::Fail, LEFT),
        _ => return None,
    };
    let mut record = transition(seen, step, nonce, reason)?;
    // That it is up is not known.
    if step == Step::Finish && wake != WakeSeen::Ready {
        record.failed_wake.clone_from(&seen.record.failed_wake);
    }
    Some(record)
}

// === impl Rules ===

impl Default for Rules {
    fn default() -> Self {
        Self {
            commit_tests_version: true,
            confirm_tests_nonce: true,
            confirm_counts_in_flight: true,
            revert_before_forward: true,
            own_write_is_ordered: true,
            wait_for_all: true,
            members_after_fence: true,
            switch_before_commit: true,
        }
    }
}

#[cfg(test)]
mod tests;
