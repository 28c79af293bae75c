//! The autoscaler's side of the protocol: one try to put one resource to zero.

use std::collections::BTreeSet;

use super::{Rules, Seen, Step, Unwritten, transition};
use crate::{Nonce, Record, Version};

/// One try to put one resource to zero: write `draining`, read the members, ask each, commit or revert. In traffic mode `when-asleep` the route is
/// switched between the last two.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Drain {
    rules: Rules,
    reason: String,
    switches: bool,
    without_requests: bool,
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
const NOT_SCALED: &str = "it could not be scaled to zero";
const NOT_IDLE: &str = "no longer idle after its Service was intercepted";

/// An input of the drain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DrainInput {
    /// The [`DrainOrder::Write`] ended.
    Wrote(Result<Version, Unwritten>),
    /// The [`DrainOrder::ReadMembers`] ended.
    Members {
        /// Every live DLX; empty if there is none.
        members: BTreeSet<String>,
        /// A nonce that was never used.
        fresh: Nonce,
    },
    /// A member confirmed.
    Confirmed(String),
    /// A member refused, or did not answer in time, or the members cannot be listed.
    Refused {
        /// A nonce that was never used.
        fresh: Nonce,
    },
    /// The [`DrainOrder::Switch`] ended: well, or in any other way.
    Switched {
        /// Only the DLXs receive requests, for the propagation delay at least, and the resource was seen idle for a while
        /// that began after that.
        idle: bool,
        /// A nonce that was never used.
        fresh: Nonce,
    },
    /// The [`DrainOrder::Commit`] ended.
    Scaled {
        /// Whether it took effect.
        result: Result<(), Unwritten>,
        /// A nonce that was never used.
        fresh: Nonce,
    },
}

/// An output of the drain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DrainOrder {
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
        /// The drain attempt's nonce.
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
    /// Given up and reverted, or another process reverted it.
    Reverted,
    /// A write's answer is not known; the record says what happened, and the next look at it goes on from there.
    Unknown,
}

// === impl Drain ===

impl Drain {
    /// Begins a try on what was seen; `None` where there is nothing to put to zero.
    pub fn begin(rules: Rules, seen: Seen, fresh: Nonce, reason: &str) -> Option<(Self, DrainOrder)> {
        let record = transition(&seen, Step::Drain, fresh, reason)?;
        let expected = seen.version.clone();
        let (stage, order) = if rules.members_after_fence {
            (Stage::Writing(record.clone()), DrainOrder::Write { expected, record })
        } else {
            (Stage::ReadingFirst(expected, record), DrainOrder::ReadMembers)
        };
        let reason = reason.to_owned();
        Some((Self { rules, reason, switches: false, without_requests: false, seen, stage }, order))
    }

    /// No request can arrive for the resource: where there is no member, none has to confirm. Those that there are do.
    #[must_use]
    pub fn without_requests(mut self) -> Self {
        self.without_requests = true;
        self
    }

    /// The resource is in traffic mode `when-asleep`: what comes for it passes no DLX until its route is switched. In traffic mode `always` it does all the
    /// while, and there is nothing to switch.
    #[must_use]
    pub fn switching(mut self) -> Self {
        self.switches = self.rules.switch_before_commit;
        self
    }

    /// The one transition function.
    pub fn step(&mut self, input: DrainInput) -> DrainOrder {
        match (std::mem::replace(&mut self.stage, Stage::Ended), input) {
            (Stage::ReadingFirst(expected, record), DrainInput::Members { members, .. })
                if !members.is_empty() =>
            {
                self.stage = Stage::Asking(members);
                self.seen.record = record.clone();
                DrainOrder::Write { expected, record }
            }
            (Stage::Writing(record), DrainInput::Wrote(Ok(version))) => {
                (self.seen.record, self.seen.version) = (record, version);
                self.stage = Stage::Reading;
                DrainOrder::ReadMembers
            }
            // Only with `members_after_fence` left out: the members are known already.
            (Stage::Asking(members), DrainInput::Wrote(Ok(version))) => {
                self.seen.version = version;
                self.ask(members)
            }
            (Stage::Reading, DrainInput::Members { members, .. })
                if members.is_empty() && self.without_requests =>
            {
                self.confirmed()
            }
            // Without a DLX, new requests could not be held.
            (Stage::Reading, DrainInput::Members { members, fresh }) if members.is_empty() => {
                self.revert(fresh, UNCONFIRMED)
            }
            (Stage::Reading, DrainInput::Members { members, .. }) => self.ask(members),
            (Stage::Asking(mut members), DrainInput::Confirmed(member)) => {
                members.remove(&member);
                if members.is_empty() || !self.rules.wait_for_all {
                    self.confirmed()
                } else {
                    self.stage = Stage::Asking(members);
                    DrainOrder::Nothing
                }
            }
            (Stage::Reading | Stage::Asking(_), DrainInput::Refused { fresh }) => {
                self.revert(fresh, UNCONFIRMED)
            }
            (Stage::Switching, DrainInput::Switched { idle: true, .. }) => self.commit(),
            (Stage::Switching, DrainInput::Switched { idle: false, fresh }) => self.revert(fresh, NOT_IDLE),
            (Stage::Committing, DrainInput::Scaled { result: Ok(()), .. }) => {
                DrainOrder::End(Outcome::Asleep)
            }
            (Stage::Committing, DrainInput::Scaled { result: Err(Unwritten::Conflict), .. }) => {
                DrainOrder::End(Outcome::Reverted)
            }
            // If it took effect, or takes effect on its way, this write finds another version. If it was refused, as where a pod
            // has work, the resource is not left draining.
            (Stage::Committing, DrainInput::Scaled { result: Err(Unwritten::Unknown), fresh }) => {
                let order = self.revert(fresh, NOT_SCALED);
                if let Stage::Reverting(outcome) = &mut self.stage {
                    *outcome = Outcome::Unknown;
                }
                order
            }
            (Stage::Writing(_), DrainInput::Wrote(Err(Unwritten::Unknown))) => {
                DrainOrder::End(Outcome::Unknown)
            }
            (Stage::Reverting(outcome), DrainInput::Wrote(_)) => DrainOrder::End(outcome),
            // A late answer after the try was decided.
            (
                stage @ (Stage::Switching | Stage::Committing | Stage::Reverting(_)),
                DrainInput::Confirmed(_) | DrainInput::Refused { .. },
            ) => {
                self.stage = stage;
                DrainOrder::Nothing
            }
            _ => DrainOrder::End(Outcome::Reverted),
        }
    }

    fn ask(&mut self, members: BTreeSet<String>) -> DrainOrder {
        self.stage = Stage::Asking(members.clone());
        DrainOrder::Ask { members, nonce: self.seen.record.nonce }
    }

    fn confirmed(&mut self) -> DrainOrder {
        if self.switches {
            self.stage = Stage::Switching;
            DrainOrder::Switch
        } else {
            self.commit()
        }
    }

    fn commit(&mut self) -> DrainOrder {
        // The nonce stays: the commit is this drain attempt's own last word.
        match transition(&self.seen, Step::Commit, self.seen.record.nonce, &self.reason) {
            Some(record) => {
                self.stage = Stage::Committing;
                DrainOrder::Commit { expected: self.seen.version.clone(), record }
            }
            None => DrainOrder::End(Outcome::Reverted),
        }
    }

    fn revert(&mut self, fresh: Nonce, why: &str) -> DrainOrder {
        match transition(&self.seen, Step::Revert, fresh, why) {
            Some(record) => {
                self.stage = Stage::Reverting(Outcome::Reverted);
                DrainOrder::Write { expected: self.seen.version.clone(), record }
            }
            None => DrainOrder::End(Outcome::Reverted),
        }
    }
}
