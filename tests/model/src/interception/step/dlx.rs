//! What a DLX does, and its requests. Its writes happen at once: they depend on the record alone, and the other model takes them
//! apart.

use scaler_types::{
    Phase, Record,
    protocol::{Gate, GateInput, GateOrder, Unwritten},
};

use super::{Done, Step, take_one};
use crate::interception::{event::Event, fault::Fault, leader::Switch, world::Dlx};

// === impl Step ===

impl Step<'_> {
    pub(super) fn see(&mut self, d: usize) -> bool {
        let now = self.world.workload.clone();
        let gate = &mut self.dlx(d).gate;
        if gate.seen() == Some(&now) {
            return false;
        }
        gate.step(GateInput::Saw(Some(now)));
        true
    }

    pub(super) fn arrive(&mut self, d: usize) -> Done {
        let bit = self.dlx(d).bit;
        let known = self.world.nodes.iter().any(|node| node.sees.dlxs & bit != 0);
        // A client that was connected once may come again, until the DLX is to stop.
        if self.world.left.requests == 0 || (self.dlx(d).leaving && !known) {
            return Ok(false);
        }
        self.world.left.requests -= 1;
        if !self.dlx(d).gate.open() {
            self.dlx(d).held += 1;
        } else if self.world.up {
            self.dlx(d).in_flight += 1;
        } else if self.world.committed {
            return Err("a request reaches a resource that a commit has scaled to zero".into());
        } else {
            self.dlx(d).held += 1;
        }
        Ok(true)
    }

    pub(super) fn dispatch(&mut self, d: usize) -> bool {
        let up = self.world.up;
        let dlx = self.dlx(d);
        if !up || !dlx.gate.open() || !take_one(&mut dlx.held) {
            return false;
        }
        dlx.in_flight += 1;
        true
    }

    pub(super) fn want(&mut self, d: usize) -> bool {
        let fresh = self.nonce();
        self.dlx(d).held > 0 && self.gate(d, GateInput::Wanted { fresh })
    }

    pub(super) fn answers(&mut self, d: usize) -> bool {
        let fresh = self.nonce();
        self.world.up && self.gate(d, GateInput::Answers { fresh })
    }

    fn gate(&mut self, d: usize, input: GateInput) -> bool {
        match self.dlx(d).gate.step(input) {
            GateOrder::Write { expected, record } => {
                let record = Record { reason: String::new(), failed_wake: String::new(), ..record };
                let stands = self.world.workload.version == expected;
                if stands && self.world.workload.record.phase == Phase::Draining && self.is_switching() {
                    self.note(Event::RevertedBySwitched);
                }
                let result =
                    if stands { Ok(self.write_record(record.clone())) } else { Err(Unwritten::Conflict) };
                self.gate(d, GateInput::Wrote { expected, record, result });
            }
            GateOrder::Wake { expected, record } => {
                if self.world.workload.version == expected {
                    if self.world.workload.record.phase == Phase::Asleep {
                        self.note(Event::WokenByRequest);
                    }
                    self.scale_up();
                    self.write_record(Record { reason: String::new(), failed_wake: String::new(), ..record });
                }
                let fresh = self.nonce();
                self.gate(d, GateInput::Woke { terminal: None, fresh });
            }
            GateOrder::Refresh => {
                self.see(d);
            }
            GateOrder::Nothing | GateOrder::Confirm | GateOrder::Refuse(_) => return false,
        }
        true
    }

    fn is_switching(&self) -> bool {
        let mut attempts = self.world.autoscalers.iter().filter_map(|autoscaler| autoscaler.attempt.as_ref());
        attempts.any(|attempt| matches!(attempt.switch, Some(Switch::Led(_) | Switch::Sampling(_))))
    }

    /// Replicas are written.
    pub(super) fn scale_up(&mut self) {
        self.world.workload.scaled = true;
        self.world.committed = false;
    }

    pub(super) fn join(&mut self, d: usize) -> bool {
        if !take_one(&mut self.world.left.joins) {
            return false;
        }
        let bit = 1 << self.world.incarnations;
        self.world.incarnations += 1;
        let gate = Gate::new(self.model.rules);
        self.world.dlxs[d] = Some(Dlx { bit, gate, in_flight: 0, held: 0, leaving: false, unnamed: None });
        if self.world.workload.record.phase == Phase::Draining {
            self.note(Event::JoinedDuringDrain);
        }
        true
    }

    pub(super) fn leave(&mut self, d: usize) -> bool {
        if self.dlx(d).leaving || !take_one(&mut self.world.left.leaves) {
            return false;
        }
        self.dlx(d).leaving = true;
        true
    }

    /// It sees that no slice names it.
    pub(super) fn unnamed(&mut self, d: usize) -> bool {
        let delay = self.world.propagation_delay();
        let named = self.world.view().dlxs & self.dlx(d).bit != 0;
        let dlx = self.dlx(d);
        if !dlx.leaving || dlx.unnamed.is_some() || named {
            return false;
        }
        dlx.unnamed = Some(delay);
        true
    }

    pub(super) fn gone(&mut self, d: usize) -> bool {
        let waited = match &self.dlx(d).unnamed.clone() {
            Some(delay) => self.is_over(delay) || self.has(Fault::EndsWithoutDelay),
            None => self.has(Fault::EndsNamed),
        };
        let Some(dlx) = self.world.dlxs[d].as_ref().filter(|dlx| dlx.leaving && waited) else { return false };
        // No write takes longer than the propagation delay.
        let to_be_named = self.world.calls().any(|call| call.names & dlx.bit != 0);
        if dlx.in_flight + dlx.held > 0 || to_be_named {
            return false;
        }
        self.world.ended |= dlx.bit;
        self.world.dlxs[d] = None;
        self.note(Event::Ended)
    }

    pub(super) fn die(&mut self, d: usize) -> bool {
        if !take_one(&mut self.world.left.deaths) {
            return false;
        }
        self.world.dlxs[d] = None;
        true
    }

    pub(super) fn dlx(&mut self, d: usize) -> &mut Dlx {
        self.world.dlxs[d].as_mut().expect("a step of a DLX that runs")
    }
}
