//! The autoscaler's side of the protocol: one try to put one resource to zero.

use std::collections::BTreeSet;

use super::{Rules, Seen, Step, Unwritten, transition};
use crate::{Nonce, Record, Version};

/// One try to put one resource to zero: write `draining`, read the members, ask each, commit or revert. In traffic mode `when-asleep` the route is
/// switched between the last two.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fence {
    rules: Rules,
    reason: String,
    switches: bool,
    seen: Seen,
    stage: Stage,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// Only with `members_after_fence` left out.
    ReadingFirst(Version, Record),
    Writing(Record),
    Reading,
    Asking(BTreeSet<String>),
    Switching,
    Committing,
    Reverting(Outcome),
    Ended,
}

/// Why a try was reverted, for who reads the record.
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
    /// Write this record if the version still stands.
    Write {
        /// The version that must still stand.
        expected: Version,
        /// The record to write.
        record: Record,
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
    /// Scale to zero with this record if the version still stands; where there is a route, it is written anew first (see
    /// [the protocol](super)).
    Commit {
        /// The version that must still stand.
        expected: Version,
        /// The record to write with the scale.
        record: Record,
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
    /// A write's answer is not known; the record says what happened, and the next look at it goes on from there.
    Unknown,
}

// === impl Fence ===

impl Fence {
    /// Begins a try on what was seen; `None` where there is nothing to put to zero.
    pub fn begin(rules: Rules, seen: Seen, fresh: Nonce, reason: &str) -> Option<(Self, FenceOrder)> {
        let record = transition(&seen, Step::Fence, fresh, reason)?;
        let expected = seen.version.clone();
        let (stage, order) = if rules.members_after_fence {
            (Stage::Writing(record.clone()), FenceOrder::Write { expected, record })
        } else {
            (Stage::ReadingFirst(expected, record), FenceOrder::ReadMembers)
        };
        Some((Self { rules, reason: reason.to_owned(), switches: false, seen, stage }, order))
    }

    /// The resource is in traffic mode `when-asleep`: what comes for it passes no DLX until its route is switched. In traffic mode `always` it does all the
    /// while, and there is nothing to switch.
    #[must_use]
    pub fn switching(mut self) -> Self {
        self.switches = self.rules.switch_before_commit;
        self
    }

    /// The one transition function.
    pub fn step(&mut self, input: FenceInput) -> FenceOrder {
        match (std::mem::replace(&mut self.stage, Stage::Ended), input) {
            (Stage::ReadingFirst(expected, record), FenceInput::Members { members, .. })
                if !members.is_empty() =>
            {
                self.stage = Stage::Asking(members);
                self.seen.record = record.clone();
                FenceOrder::Write { expected, record }
            }
            (Stage::Writing(record), FenceInput::Wrote(Ok(version))) => {
                (self.seen.record, self.seen.version) = (record, version);
                self.stage = Stage::Reading;
                FenceOrder::ReadMembers
            }
            // Only with `members_after_fence` left out: the members are known already.
            (Stage::Asking(members), FenceInput::Wrote(Ok(version))) => {
                self.seen.version = version;
                self.ask(members)
            }
            // With no DLX at all nobody could hold what comes.
            (Stage::Reading, FenceInput::Members { members, fresh }) if members.is_empty() => {
                self.revert(fresh, UNCONFIRMED)
            }
            (Stage::Reading, FenceInput::Members { members, .. }) => self.ask(members),
            (Stage::Asking(mut members), FenceInput::Confirmed(member)) => {
                members.remove(&member);
                if members.is_empty() || !self.rules.wait_for_all {
                    self.confirmed()
                } else {
                    self.stage = Stage::Asking(members);
                    FenceOrder::Nothing
                }
            }
            (Stage::Asking(_), FenceInput::Refused { fresh }) => self.revert(fresh, UNCONFIRMED),
            (Stage::Switching, FenceInput::Switched { idle: true, .. }) => self.commit(),
            (Stage::Switching, FenceInput::Switched { idle: false, fresh }) => self.revert(fresh, NOT_IDLE),
            (Stage::Committing, FenceInput::Scaled(Ok(()))) => FenceOrder::End(Outcome::Asleep),
            (Stage::Committing, FenceInput::Scaled(Err(Unwritten::Conflict))) => {
                FenceOrder::End(Outcome::Reverted)
            }
            (Stage::Committing, FenceInput::Scaled(Err(Unwritten::Unknown))) => {
                FenceOrder::End(Outcome::Unknown)
            }
            (Stage::Writing(_), FenceInput::Wrote(Err(Unwritten::Unknown))) => {
                FenceOrder::End(Outcome::Unknown)
            }
            (Stage::Reverting(outcome), FenceInput::Wrote(_)) => FenceOrder::End(outcome),
            // A late answer after the try was decided.
            (
                stage @ (Stage::Switching | Stage::Committing | Stage::Reverting(_)),
                FenceInput::Confirmed(_) | FenceInput::Refused { .. },
            ) => {
                self.stage = stage;
                FenceOrder::Nothing
            }
            _ => FenceOrder::End(Outcome::Reverted),
        }
    }

    fn ask(&mut self, members: BTreeSet<String>) -> FenceOrder {
        self.stage = Stage::Asking(members.clone());
        FenceOrder::Ask { members, nonce: self.seen.record.nonce }
    }

    fn confirmed(&mut self) -> FenceOrder {
        if self.switches {
            self.stage = Stage::Switching;
            FenceOrder::Switch
        } else {
            self.commit()
        }
    }

    fn commit(&mut self) -> FenceOrder {
        // The nonce stays: the commit is this fence's own last word.
        match transition(&self.seen, Step::Commit, self.seen.record.nonce, &self.reason) {
            Some(record) => {
                self.stage = Stage::Committing;
                FenceOrder::Commit { expected: self.seen.version.clone(), record }
            }
            None => FenceOrder::End(Outcome::Reverted),
        }
    }

    fn revert(&mut self, fresh: Nonce, why: &str) -> FenceOrder {
        match transition(&self.seen, Step::Revert, fresh, why) {
            Some(record) => {
                self.stage = Stage::Reverting(Outcome::Reverted);
                FenceOrder::Write { expected: self.seen.version.clone(), record }
            }
            None => FenceOrder::End(Outcome::Reverted),
        }
    }
}
