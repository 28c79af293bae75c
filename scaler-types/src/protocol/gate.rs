//! A DLX's side of the protocol, for one resource.

use super::{Rules, Seen, Step, Unwritten, transition};
use crate::{Nonce, Phase, Record, Version};

/// Says whether a DLX may forward requests of one resource, and what it must write before it may.
///
/// Requests in flight are counted outside (they are counted without a lock): a request is counted first and asks
/// [`Gate::open`] then, and an [`Asked`](GateInput::Asked) reads the count after the gate was shut.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Gate {
    rules: Rules,
    seen: Option<Seen>,
    /// The version this DLX's own last write replaced: the watch may still be about to deliver it.
    superseded: Option<Version>,
    writing: bool,
    waking: bool,
}

/// An input of the gate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GateInput {
    /// The plugin's stream reported the resource's state; `None`: it is gone. In the stream's order.
    Saw(Option<Seen>),
    /// At least one request waits that the gate does not let through.
    Wanted {
        /// A nonce that was never used.
        fresh: Nonce,
    },
    /// The [`GateOrder::Write`] ended.
    Wrote {
        /// The version it was to replace.
        expected: Version,
        /// The record it was to write.
        record: Record,
        /// The new version, or why not.
        result: Result<Version, Unwritten>,
    },
    /// The [`GateOrder::Wake`] ended.
    Woke {
        /// The reason if it can never succeed as things are; `None` if it succeeded, met a conflict, or may be tried again.
        terminal: Option<String>,
        /// A nonce that was never used.
        fresh: Nonce,
    },
    /// An endpoint of the resource answers.
    Answers {
        /// A nonce that was never used.
        fresh: Nonce,
    },
    /// The autoscaler asks to confirm its drain attempt.
    Asked {
        /// The drain attempt's nonce.
        nonce: Nonce,
        /// Requests in flight here, open upgraded sockets included.
        in_flight: u64,
        /// Requests held here.
        held: u64,
    },
}

/// An output of the gate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GateOrder {
    /// Nothing, or nothing yet.
    Nothing,
    /// Write this record if the version still stands; answer with [`GateInput::Wrote`].
    Write {
        /// The version that must still stand.
        expected: Version,
        /// The record to write.
        record: Record,
    },
    /// Scale to at least one with this record if the version still stands; answer with [`GateInput::Woke`].
    Wake {
        /// The version that must still stand.
        expected: Version,
        /// The record to write with the scale.
        record: Record,
    },
    /// The last state seen is old: list the plugin's resources again.
    Refresh,
    /// The drain attempt is confirmed.
    Confirm,
    /// It is not.
    Refuse(Refusal),
}

/// Why a DLX does not confirm a drain attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// It does not see this nonce: not yet, or no more.
    NotSeen,
    /// Requests are in flight.
    InFlight(u64),
    /// Requests are held: they are about to revert it.
    Held(u64),
}

// === impl Gate ===

impl Gate {
    /// A gate that knows nothing yet, and is shut.
    pub fn new(rules: Rules) -> Self {
        Self { rules, seen: None, superseded: None, writing: false, waking: false }
    }

    /// Whether requests may be forwarded.
    pub fn open(&self) -> bool {
        self.seen.as_ref().is_some_and(|seen| match seen.record.phase {
            // A later version may scale to zero in a way that keeps the replicas.
            Phase::Asleep => false,
            // Nothing of a later format is confirmed here, so nothing is committed to zero while this DLX is registered.
            _ if seen.record.format > Record::FORMAT => seen.scaled,
            Phase::Active | Phase::Waking => seen.scaled,
            Phase::Draining => seen.scaled && !self.rules.revert_before_forward,
            Phase::Failed => false,
        })
    }

    /// The state of the resource, as this DLX last saw it.
    pub fn seen(&self) -> Option<&Seen> {
        self.seen.as_ref()
    }

    /// Whether a wake of this DLX's own is under way.
    pub fn waking(&self) -> bool {
        self.waking
    }

    /// The one transition function.
    pub fn step(&mut self, input: GateInput) -> GateOrder {
        match input {
            GateInput::Saw(seen) => self.observe(seen),
            GateInput::Wanted { fresh } => self.wanted(fresh),
            GateInput::Wrote { expected, record, result } => self.wrote(expected, record, result),
            GateInput::Woke { terminal, fresh } => {
                self.waking = false;
                match terminal {
                    Some(reason) => self.write(Step::Fail, fresh, &reason),
                    None => GateOrder::Nothing,
                }
            }
            GateInput::Answers { fresh } => match &self.seen {
                Some(seen) if seen.record.phase == Phase::Waking && seen.scaled => {
                    self.write(Step::Finish, fresh, "woken by a request")
                }
                _ => GateOrder::Nothing,
            },
            GateInput::Asked { nonce, in_flight, held } => self.asked(nonce, in_flight, held),
        }
    }

    fn observe(&mut self, seen: Option<Seen>) -> GateOrder {
        // The stream is behind this DLX's own write: its state was replaced.
        let behind = seen.as_ref().is_some_and(|seen| Some(&seen.version) == self.superseded.as_ref());
        if !behind {
            self.seen = seen;
        }
        GateOrder::Nothing
    }

    fn wanted(&mut self, fresh: Nonce) -> GateOrder {
        let Some(seen) = &self.seen else { return GateOrder::Refresh };
        if self.writing || self.waking || self.open() {
            return GateOrder::Nothing;
        }
        if seen.record.phase == Phase::Draining && seen.scaled {
            return self.write(Step::Revert, fresh, "a request came");
        }
        match transition(seen, Step::Wake, fresh, "a request came") {
            Some(record) => {
                self.waking = true;
                GateOrder::Wake { expected: seen.version.clone(), record }
            }
            None => GateOrder::Nothing,
        }
    }

    fn write(&mut self, step: Step, fresh: Nonce, reason: &str) -> GateOrder {
        let Some(seen) = self.seen.as_ref().filter(|_| !self.writing) else { return GateOrder::Nothing };
        match transition(seen, step, fresh, reason) {
            Some(record) => {
                self.writing = true;
                GateOrder::Write { expected: seen.version.clone(), record }
            }
            None => GateOrder::Nothing,
        }
    }

    fn wrote(&mut self, expected: Version, record: Record, result: Result<Version, Unwritten>) -> GateOrder {
        self.writing = false;
        let version = match result {
            Ok(version) => version,
            Err(Unwritten::Conflict) => return GateOrder::Refresh,
            Err(Unwritten::Unknown) => return GateOrder::Nothing,
        };
        // Something newer was seen while the answer was on its way: a drain attempt, perhaps, that was confirmed since.
        if let Some(seen) = &mut self.seen
            && (seen.version == expected || !self.rules.own_write_is_ordered)
        {
            (seen.record, seen.version) = (record, version);
            self.superseded = Some(expected);
        }
        GateOrder::Nothing
    }

    fn asked(&self, nonce: Nonce, in_flight: u64, held: u64) -> GateOrder {
        let sees = self.seen.as_ref().is_some_and(|seen| {
            seen.record.phase == Phase::Draining
                && seen.record.nonce == nonce
                && seen.record.format <= Record::FORMAT
        });
        if !sees && self.rules.confirm_tests_nonce {
            GateOrder::Refuse(Refusal::NotSeen)
        } else if in_flight > 0 && self.rules.confirm_counts_in_flight {
            GateOrder::Refuse(Refusal::InFlight(in_flight))
        } else if held > 0 {
            GateOrder::Refuse(Refusal::Held(held))
        } else {
            GateOrder::Confirm
        }
    }
}
