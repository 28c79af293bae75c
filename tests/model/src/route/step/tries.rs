//! One try to put the resource to zero.

use std::collections::BTreeSet;

use scaler_types::{
    Path, Row, State,
    protocol::{Fence, FenceInput, FenceOrder, GateInput, GateOrder, Refusal, Unwritten},
};

use super::{Done, Step, take_one};
use crate::{
    canon,
    route::{
        event::Event,
        fault::Fault,
        leader::{Attempt, Call, Commit, Orphan, Switch},
        world::Direct,
    },
};

// === impl Step ===

impl Step<'_> {
    /// Writes `draining` and reads the members.
    pub(super) fn begin(&mut self, a: usize) -> bool {
        let always = self.model.path == Path::Always;
        let autoscaler = &self.world.autoscalers[a];
        let led = autoscaler.led.as_ref().filter(|led| led.covered).map(|led| led.service);
        // On path direct the switch says which.
        let Some(service) = (if always { led } else { Some(self.world.service.version) }) else {
            return false;
        };
        // Whether it is still asked for it need not know yet.
        if autoscaler.attempt.is_some() {
            return false;
        }
        let fresh = self.nonce();
        let seen = self.world.workload.clone();
        let Some((fence, order)) = Fence::begin(self.model.rules, seen, fresh, "") else { return false };
        if !take_one(&mut self.world.left.fences) {
            return false;
        }
        let fence = if always && self.has(Fault::AlwaysNotSwitched) { fence } else { fence.switching() };
        self.world.autoscalers[a].attempt =
            Some(Attempt { fence, nonce: fresh, asked: 0, service, switch: None, commit: None });
        self.fence_order(a, order);
        true
    }

    pub(super) fn ask(&mut self, a: usize, d: usize) -> bool {
        let attempt = self.attempt(a);
        let (asked, nonce) = (attempt.asked, attempt.nonce);
        let Some(dlx) = self.world.dlxs[d].as_mut().filter(|dlx| dlx.bit & asked != 0) else { return false };
        let question = GateInput::Asked { nonce, in_flight: dlx.in_flight.into(), held: dlx.held.into() };
        let bit = dlx.bit;
        let answer = dlx.gate.step(question);
        if answer == GateOrder::Refuse(Refusal::NotSeen) {
            // It waits until its view shows the fence.
            return false;
        }
        self.attempt(a).asked &= !bit;
        let fresh = self.nonce();
        let confirmed = answer == GateOrder::Confirm;
        self.fence(
            a,
            if confirmed { FenceInput::Confirmed(name(bit)) } else { FenceInput::Refused { fresh } },
        );
        true
    }

    /// An answer, the route or the sample takes too long.
    pub(super) fn give_up(&mut self, a: usize) -> bool {
        if self.attempt(a).commit.is_some() {
            return false;
        }
        if self.attempt(a).switch.is_some() {
            self.orphan_switch(a);
            self.not_switched(a);
        } else {
            let fresh = self.nonce();
            self.fence(a, FenceInput::Refused { fresh });
        }
        true
    }

    /// A switch under way goes on without its try.
    pub(super) fn orphan_switch(&mut self, a: usize) {
        let autoscaler = &mut self.world.autoscalers[a];
        if let Some(call) = autoscaler.call.take_if(|call| call.switch) {
            self.world.orphans.push(Orphan::Route(call));
        }
    }

    /// The route was written for the try.
    pub(super) fn switched(&mut self, a: usize, call: &Call) {
        let (version, grace) = (self.world.service.version, self.world.grace());
        let always = self.model.path == Path::Always;
        let attempt = self.attempt(a);
        attempt.service = version;
        if always {
            attempt.switch = Some(Switch::Sampled);
            // It was led before and after its own write.
            if let Some(led) = &mut self.world.autoscalers[a].led
                && led.service == call.service
            {
                led.service = version;
            }
            let fresh = self.nonce();
            self.fence(a, FenceInput::Switched { idle: true, fresh });
        } else {
            attempt.switch = Some(Switch::Led(grace));
        }
    }

    pub(super) fn not_switched(&mut self, a: usize) {
        let fresh = self.nonce();
        self.fence(a, FenceInput::Switched { idle: false, fresh });
    }

    /// The grace is over, and the sample begins.
    pub(super) fn sample(&mut self, a: usize) -> bool {
        let Direct { seen, unseen, .. } = self.world.direct;
        let Some(Switch::Led(grace)) = self.attempt(a).switch.clone() else { return false };
        if !self.is_over(&grace) && !self.has(Fault::SamplesBeforeGrace) {
            return false;
        }
        self.attempt(a).switch =
            Some(Switch::Sampling(seen + unseen == 0 || self.has(Fault::SamplesNothing)));
        true
    }

    pub(super) fn sampled(&mut self, a: usize) -> bool {
        let Some(Switch::Sampling(idle)) = self.attempt(a).switch else { return false };
        self.attempt(a).switch = Some(Switch::Sampled);
        if !idle {
            self.note(Event::NotIdle);
        }
        let fresh = self.nonce();
        self.fence(a, FenceInput::Switched { idle, fresh });
        true
    }

    /// The plugin reads Service and slice once more before it writes a commit.
    pub(super) fn read_again(&mut self, a: usize) -> bool {
        let service = self.world.service.clone();
        let led = service.key && self.world.slice.is_some();
        let blind = self.has(Fault::DoesNotReadAgain) || !self.model.rules.switch_before_commit;
        let attempt = self.attempt(a);
        let same = service.version == attempt.service;
        let Some(commit) = attempt.commit.as_mut().filter(|commit| !commit.checked) else { return false };
        if blind || (led && same) {
            commit.checked = true;
        } else {
            self.note(Event::RouteChanged);
            self.fence(a, FenceInput::Scaled(Err(Unwritten::Conflict)));
        }
        true
    }

    pub(super) fn commit(&mut self, a: usize) -> Done {
        let attempt = self.world.autoscalers[a].attempt.as_ref();
        let commit = attempt.and_then(|attempt| attempt.commit.clone()).filter(|commit| commit.checked);
        let Some(commit) = commit else { return Ok(false) };
        let stands = self.put_to_zero(&commit)?;
        if !stands {
            self.note(Event::CommitConflict);
        }
        self.fence(a, FenceInput::Scaled(if stands { Ok(()) } else { Err(Unwritten::Conflict) }));
        Ok(true)
    }

    /// The commit reaches the API.
    pub(super) fn put_to_zero(&mut self, commit: &Commit) -> Done {
        if self.world.workload.version != commit.expected {
            return Ok(false);
        }
        let Direct { seen, unseen, .. } = self.world.direct;
        if seen > 0 {
            return Err("a commit cuts a request at a pod".into());
        }
        if self.world.dlxs.iter().flatten().any(|dlx| dlx.in_flight > 0) {
            return Err("a commit cuts a request of a DLX".into());
        }
        if unseen > 0 {
            self.note(Event::CutUnseen);
        }
        self.world.direct = Direct::default();
        (self.world.up, self.world.committed) = (false, true);
        self.world.workload.scaled = false;
        self.write_row(commit.row.clone());
        Ok(self.note(Event::Committed))
    }

    // The protocol's function.

    fn fence(&mut self, a: usize, input: FenceInput) {
        let order = self.attempt(a).fence.step(input);
        self.fence_order(a, order);
    }

    fn fence_order(&mut self, a: usize, order: FenceOrder) {
        match order {
            FenceOrder::Nothing => {}
            // A row alone: it may as well happen at once.
            FenceOrder::Write { expected, row } => {
                let stands = self.world.workload.version == expected;
                let row = Row { reason: String::new(), ..row };
                let result = if stands { Ok(self.write_row(row)) } else { Err(Unwritten::Conflict) };
                self.fence(a, FenceInput::Wrote(result));
            }
            FenceOrder::ReadMembers => {
                let members: BTreeSet<_> =
                    self.world.dlxs.iter().flatten().map(|dlx| name(dlx.bit)).collect();
                let fresh = self.nonce();
                self.fence(a, FenceInput::Members { members, fresh });
            }
            FenceOrder::Ask { members, .. } => {
                let asked = self.world.dlxs.iter().flatten().filter(|dlx| members.contains(&name(dlx.bit)));
                self.attempt(a).asked = asked.fold(0, |all, dlx| all | dlx.bit);
            }
            FenceOrder::Switch => self.attempt(a).switch = Some(Switch::Ordered),
            FenceOrder::Commit { expected, row } => {
                let row = Row { reason: String::new(), ..row };
                self.attempt(a).commit = Some(Commit { expected, row, checked: false });
            }
            FenceOrder::End(_) => self.world.autoscalers[a].attempt = None,
        }
    }

    pub(super) fn attempt(&mut self, a: usize) -> &mut Attempt {
        self.world.autoscalers[a].attempt.as_mut().expect("a step of a try under way")
    }

    /// Who recovers a fence knows whether it is its own.
    pub(super) fn is_rivals(&self, a: usize) -> bool {
        self.world.workload.row.state == State::Draining && self.world.autoscalers[1 - a].attempt.is_some()
    }
}

/// The name under which an incarnation registers.
fn name(bit: u8) -> String {
    canon::member(0, bit.trailing_zeros() as u8)
}
