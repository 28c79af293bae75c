//! The autoscaler's side of the protocol: one try to put one resource to zero.

use std::collections::BTreeSet;

use super::{Rules, Seen, Step, Unwritten, transition};
use crate::{Nonce, Row, Version};

/// One try to put one resource to zero: write `draining`, read the members, ask each, commit or revert. On path direct the route is
/// switched between the last two.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fence {
    rules: Rules,
    reason: String,
    switches: bool,
    seen: Seen,
    phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// Only with `members_after_fence` left out.
    ReadingFirst(Version, Row),
    Writing(Row),
    Reading,
    Asking(BTreeSet<String>),
    Switching,
    Committing,
    Reverting(Outcome),
    Ended,
}

/// Why a try was reverted, for who reads the row.
const UNCONFIRMED: &str = "not every DLX could confirm";
const NOT_IDLE: &str = "not seen idle once everything was led to the DLXs";

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FenceInput {
    /// The [`FenceOrder::Write`] ended.
    Wrote(Result<Version, Unwritten>),
    /// The [`FenceOrder::ReadMembers`] ended.
    Members {
        /// Every live DLX; empty if there is none, or if they cannot be told.
        members: BTreeSet<String>,
        /// A nonce nobody has used.
        fresh: Nonce,
    },
    /// A member confirmed.
    Confirmed(String),
    /// A member refused, or did not answer in time.
    Refused {
        /// A nonce nobody has used.
        fresh: Nonce,
    },
    /// The [`FenceOrder::Switch`] ended: well, or in any other way.
    Switched {
        /// The route leads to the DLXs alone, everybody has had the time to follow, and the resource was seen idle for a while
        /// that began after that.
        idle: bool,
        /// A nonce nobody has used.
        fresh: Nonce,
    },
    /// The [`FenceOrder::Commit`] ended.
    Scaled(Result<(), Unwritten>),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FenceOrder {
    /// Nothing yet: answers are outstanding.
    Nothing,
    /// Write this row if the version still stands.
    Write {
        /// The version that must still stand.
        expected: Version,
        /// The row to write.
        row: Row,
    },
    /// Tell who the members are, from now on or later.
    ReadMembers,
    /// Ask each of these to confirm the nonce.
    Ask {
        /// The members.
        members: BTreeSet<String>,
        /// The fence's nonce.
        nonce: Nonce,
    },
    /// Have the route of the resource lead to the DLXs alone, and see whether it is idle once everybody has followed.
    Switch,
    /// Scale to zero with this row if the version still stands; where there is a route, it is written anew first (see
    /// [the protocol](super)).
    Commit {
        /// The version that must still stand.
        expected: Version,
        /// The row to write with the scale.
        row: Row,
    },
    /// The try is over.
    End(Outcome),
}

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// At zero.
    Asleep,
    /// Given up and reverted, or somebody else did.
    Reverted,
    /// A write's answer is not known; the row says what happened, and the next look at it goes on from there.
    Unknown,
}

// === impl Fence ===

impl Fence {
    /// Begins a try on what was seen; `None` where there is nothing to put to zero.
    pub fn begin(rules: Rules, seen: Seen, fresh: Nonce, reason: &str) -> Option<(Self, FenceOrder)> {
        let row = transition(&seen, Step::Fence, fresh, reason)?;
        let expected = seen.version.clone();
        let (phase, order) = if rules.members_after_fence {
            (Phase::Writing(row.clone()), FenceOrder::Write { expected, row })
        } else {
            (Phase::ReadingFirst(expected, row), FenceOrder::ReadMembers)
        };
        Some((Self { rules, reason: reason.to_owned(), switches: false, seen, phase }, order))
    }

    /// The resource is on path direct: what comes for it passes no DLX until its route is switched. On path always it does all the
    /// while, and there is nothing to switch.
    #[must_use]
    pub fn switching(mut self) -> Self {
        self.switches = self.rules.switch_before_commit;
        self
    }

    /// The one transition function.
    pub fn step(&mut self, input: FenceInput) -> FenceOrder {
        match (std::mem::replace(&mut self.phase, Phase::Ended), input) {
            (Phase::ReadingFirst(expected, row), FenceInput::Members { members, .. })
                if !members.is_empty() =>
            {
                self.phase = Phase::Asking(members);
                self.seen.row = row.clone();
                FenceOrder::Write { expected, row }
            }
            (Phase::Writing(row), FenceInput::Wrote(Ok(version))) => {
                (self.seen.row, self.seen.version) = (row, version);
                self.phase = Phase::Reading;
                FenceOrder::ReadMembers
            }
            // Only with `members_after_fence` left out: the members are known already.
            (Phase::Asking(members), FenceInput::Wrote(Ok(version))) => {
                self.seen.version = version;
                self.ask(members)
            }
            // With no DLX at all nobody could hold what comes.
            (Phase::Reading, FenceInput::Members { members, fresh }) if members.is_empty() => {
                self.revert(fresh, UNCONFIRMED)
            }
            (Phase::Reading, FenceInput::Members { members, .. }) => self.ask(members),
            (Phase::Asking(mut members), FenceInput::Confirmed(member)) => {
                members.remove(&member);
                if members.is_empty() || !self.rules.wait_for_all {
                    self.confirmed()
                } else {
                    self.phase = Phase::Asking(members);
                    FenceOrder::Nothing
                }
            }
            (Phase::Asking(_), FenceInput::Refused { fresh }) => self.revert(fresh, UNCONFIRMED),
            (Phase::Switching, FenceInput::Switched { idle: true, .. }) => self.commit(),
            (Phase::Switching, FenceInput::Switched { idle: false, fresh }) => self.revert(fresh, NOT_IDLE),
            (Phase::Committing, FenceInput::Scaled(Ok(()))) => FenceOrder::End(Outcome::Asleep),
            (Phase::Committing, FenceInput::Scaled(Err(Unwritten::Conflict))) => {
                FenceOrder::End(Outcome::Reverted)
            }
            (Phase::Committing, FenceInput::Scaled(Err(Unwritten::Unknown))) => {
                FenceOrder::End(Outcome::Unknown)
            }
            (Phase::Writing(_), FenceInput::Wrote(Err(Unwritten::Unknown))) => {
                FenceOrder::End(Outcome::Unknown)
            }
            (Phase::Reverting(outcome), FenceInput::Wrote(_)) => FenceOrder::End(outcome),
            // A late answer after the try was decided.
            (
                phase @ (Phase::Switching | Phase::Committing | Phase::Reverting(_)),
                FenceInput::Confirmed(_) | FenceInput::Refused { .. },
            ) => {
                self.phase = phase;
                FenceOrder::Nothing
            }
            _ => FenceOrder::End(Outcome::Reverted),
        }
    }

    fn ask(&mut self, members: BTreeSet<String>) -> FenceOrder {
        self.phase = Phase::Asking(members.clone());
        FenceOrder::Ask { members, nonce: self.seen.row.nonce }
    }

    fn confirmed(&mut self) -> FenceOrder {
        if self.switches {
            self.phase = Phase::Switching;
            FenceOrder::Switch
        } else {
            self.commit()
        }
    }

    fn commit(&mut self) -> FenceOrder {
        // The nonce stays: the commit is this fence's own last word.
        match transition(&self.seen, Step::Commit, self.seen.row.nonce, &self.reason) {
            Some(row) => {
                self.phase = Phase::Committing;
                FenceOrder::Commit { expected: self.seen.version.clone(), row }
            }
            None => FenceOrder::End(Outcome::Reverted),
        }
    }

    fn revert(&mut self, fresh: Nonce, why: &str) -> FenceOrder {
        match transition(&self.seen, Step::Revert, fresh, why) {
            Some(row) => {
                self.phase = Phase::Reverting(Outcome::Reverted);
                FenceOrder::Write { expected: self.seen.version.clone(), row }
            }
            None => FenceOrder::End(Outcome::Reverted),
        }
    }
}
