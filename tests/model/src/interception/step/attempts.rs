//! One drain attempt.

use std::collections::BTreeSet;

use scaler_types::{
    Backend, Phase, Record, TrafficMode, Version,
    protocol::{Drain, DrainInput, DrainOrder, GateInput, GateOrder, Refusal, Unwritten},
};

use super::{Done, Step, take_one};
use crate::{
    canon,
    interception::{
        event::Event,
        fault::Fault,
        leader::{Attempt, Commit, CommitStep, Observed, Switch},
        world::{self, Direct, Service, World},
    },
};

// === impl Step ===

impl Step<'_> {
    /// Writes `draining` and reads the members.
    pub(super) fn begin(&mut self, a: usize) -> bool {
        let always = self.model.traffic_mode == TrafficMode::Always;
        let autoscaler = &self.world.autoscalers[a];
        // Whether it is still asked for it need not know yet.
        let fits = if always { self.is_intercepted(a) } else { self.world.backend() == Backend::Workload };
        if !fits || autoscaler.attempt.is_some() {
            return false;
        }
        let fresh = self.nonce();
        let seen = self.world.workload.clone();
        let Some((drain, order)) = Drain::begin(self.model.rules, seen, fresh, "") else { return false };
        if !take_one(&mut self.world.left.drains) {
            return false;
        }
        let drain = if always { drain } else { drain.switching() };
        self.world.autoscalers[a].attempt =
            Some(Attempt { drain, nonce: fresh, asked: 0, service: None, switch: None, commit: None });
        self.drain_order(a, order);
        true
    }

    /// Whether it has seen the backend be the DLXs for a window.
    fn is_intercepted(&self, a: usize) -> bool {
        self.world.autoscalers[a].intercepted.as_ref().is_some_and(|intercepted| intercepted.covered)
    }

    pub(super) fn ask(&mut self, a: usize, d: usize) -> bool {
        let attempt = self.attempt(a);
        let (asked, nonce) = (attempt.asked, attempt.nonce);
        let Some(dlx) = self.world.dlxs[d].as_mut().filter(|dlx| dlx.bit & asked != 0) else { return false };
        let question = GateInput::Asked { nonce, in_flight: dlx.in_flight.into(), held: dlx.held.into() };
        let bit = dlx.bit;
        let answer = dlx.gate.step(question);
        if answer == GateOrder::Refuse(Refusal::NotSeen) {
            // It waits until its view shows the drain attempt.
            return false;
        }
        self.attempt(a).asked &= !bit;
        let fresh = self.nonce();
        let confirmed = answer == GateOrder::Confirm;
        self.drain(
            a,
            if confirmed { DrainInput::Confirmed(name(bit)) } else { DrainInput::Refused { fresh } },
        );
        true
    }

    /// An answer, the switchover or the sample takes too long.
    pub(super) fn give_up(&mut self, a: usize) -> bool {
        if self.attempt(a).commit.is_some() {
            return false;
        }
        if self.attempt(a).switch.is_some() {
            self.not_switched(a);
        } else {
            let fresh = self.nonce();
            self.drain(a, DrainInput::Refused { fresh });
        }
        true
    }

    /// It observes the Service that it has to wait for.
    pub(super) fn observe_service(&mut self, a: usize, observed: &Observed) {
        let delay = self.world.propagation_delay();
        let Some(attempt) = &mut self.world.autoscalers[a].attempt else { return };
        let intercepted = world::backend(&observed.service, observed.slice.as_ref()) == Backend::Dlx
            && observed.slice.is_some();
        let same = attempt.service == Some(observed.service.version);
        let gone = !observed.asked || observed.workload.record.nonce != attempt.nonce;
        match &mut attempt.switch {
            Some(Switch::Ordered | Switch::Led(_) | Switch::Sampling(_)) if gone => self.not_switched(a),
            // Whatever switched it.
            Some(Switch::Ordered) if intercepted => {
                (attempt.service, attempt.switch) =
                    (Some(observed.service.version), Some(Switch::Led(delay)));
            }
            Some(switch @ Switch::Led(_)) if !intercepted => *switch = Switch::Ordered,
            Some(Switch::Led(since)) if !same => {
                (attempt.service, *since) = (Some(observed.service.version), delay)
            }
            Some(Switch::Sampling(_)) if !intercepted || !same => {
                self.not_switched(a);
                self.note(Event::SwitchLost);
            }
            _ => {}
        }
    }

    pub(super) fn not_switched(&mut self, a: usize) {
        let fresh = self.nonce();
        self.drain(a, DrainInput::Switched { idle: false, fresh });
    }

    /// The propagation delay is over, and the sample begins.
    pub(super) fn sample(&mut self, a: usize) -> bool {
        let Direct { seen, unseen, .. } = self.world.direct;
        let Some(Switch::Led(delay)) = self.attempt(a).switch.clone() else { return false };
        if !self.is_over(&delay) && !self.has(Fault::SamplesBeforeDelay) {
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
        self.drain(a, DrainInput::Switched { idle, fresh });
        true
    }

    /// The plugin takes what a commit relies on from its view. In traffic mode `always` its backend must have been the DLXs for a window,
    /// on this version; in traffic mode `when-asleep` the autoscaler knows, as it has observed nothing else since every node followed.
    fn begin_commit(&mut self, a: usize, expected: Version, record: Record) {
        let World { service, slice, .. } = &self.world;
        let (service, complete) = (service.version, service.key.is_some() && slice.is_some());
        let intercepted = self.world.autoscalers[a].intercepted.as_ref();
        let same = intercepted.is_some_and(|intercepted| intercepted.service == service)
            || self.has(Fault::LooksInMemory);
        let when_asleep = self.model.traffic_mode == TrafficMode::WhenAsleep;
        let again = when_asleep || (self.is_intercepted(a) && same) || self.has(Fault::DoesNotLookAgain);
        // Without that rule nothing is known of the Service.
        let blind = !self.model.rules.switch_before_commit;
        let at = if blind { CommitStep::Write } else { CommitStep::Stamp };
        let nonce = self.attempt(a).nonce;
        if blind || (again && complete) {
            self.attempt(a).commit = Some(Commit { expected, record, service, nonce, at });
        } else {
            self.note(Event::ServiceChanged);
            self.scaled(a, Err(Unwritten::Conflict));
        }
    }

    fn scaled(&mut self, a: usize, result: Result<(), Unwritten>) {
        let fresh = self.nonce();
        self.drain(a, DrainInput::Scaled { result, fresh });
    }

    /// The plugin makes the next request of a commit.
    pub(super) fn commit(&mut self, a: usize) -> Done {
        let Some(commit) = self.attempt(a).commit.clone() else { return Ok(false) };
        let next = match commit.at {
            CommitStep::Stamp => self.stamp(a, &commit).then_some(CommitStep::Slices),
            CommitStep::Slices => self.world.slice.is_some().then_some(CommitStep::Write),
            CommitStep::Write => {
                let stands = self.scale_to_zero(&commit)?;
                if !stands {
                    self.note(Event::CommitConflict);
                    self.note(Event::StampedInVain);
                }
                self.scaled(a, if stands { Ok(()) } else { Err(Unwritten::Conflict) });
                return Ok(true);
            }
        };
        let blind = self.has(Fault::SlicesNotRead).then_some(CommitStep::Write);
        match (next.map(|next| blind.unwrap_or(next)), &mut self.attempt(a).commit) {
            (Some(next), Some(commit)) => commit.at = next,
            _ => {
                self.note(Event::ServiceChanged);
                if commit.at == CommitStep::Slices {
                    self.note(Event::StampedInVain);
                }
                self.scaled(a, Err(Unwritten::Conflict));
            }
        }
        Ok(true)
    }

    /// The key is written anew on the version of the view.
    fn stamp(&mut self, a: usize, commit: &Commit) -> bool {
        if self.has(Fault::DoesNotStamp) {
            return self.world.service.key.is_some();
        }
        if !self.put_stamp(commit) {
            return false;
        }
        // It was intercepted before and after its own write.
        let version = self.world.service.version;
        if let Some(intercepted) = self.world.autoscalers[a]
            .intercepted
            .as_mut()
            .filter(|intercepted| intercepted.service == commit.service)
        {
            intercepted.service = version;
        }
        true
    }

    /// A commit's first request reaches the API.
    pub(super) fn put_stamp(&mut self, commit: &Commit) -> bool {
        let Service { key, version } = &self.world.service;
        let stands = *version == commit.service || self.has(Fault::StampsWhatIsThere);
        let stands = stands && key.is_some();
        if stands {
            self.world.service = Service { key: Some(commit.nonce), version: self.nonce() };
        }
        stands
    }

    /// The commit reaches the API.
    pub(super) fn scale_to_zero(&mut self, commit: &Commit) -> Done {
        if self.world.workload.version != commit.expected {
            return Ok(false);
        }
        if self.world.slice.is_none() && self.model.rules.switch_before_commit {
            return Err("a commit scales to zero what no DLX is named for".into());
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
        self.write_record(commit.record.clone());
        Ok(self.note(Event::Committed))
    }

    // The protocol's function.

    fn drain(&mut self, a: usize, input: DrainInput) {
        let order = self.attempt(a).drain.step(input);
        self.drain_order(a, order);
    }

    fn drain_order(&mut self, a: usize, order: DrainOrder) {
        match order {
            DrainOrder::Nothing => {}
            // A record alone: it may as well happen at once.
            DrainOrder::Write { expected, record } => {
                let stands = self.world.workload.version == expected;
                let record = Record { reason: String::new(), failed_wake: String::new(), ..record };
                let result = if stands { Ok(self.write_record(record)) } else { Err(Unwritten::Conflict) };
                self.drain(a, DrainInput::Wrote(result));
            }
            DrainOrder::ReadMembers => {
                let members: BTreeSet<_> =
                    self.world.dlxs.iter().flatten().map(|dlx| name(dlx.bit)).collect();
                let fresh = self.nonce();
                self.drain(a, DrainInput::Members { members, fresh });
            }
            DrainOrder::Ask { members, .. } => {
                let asked = self.world.dlxs.iter().flatten().filter(|dlx| members.contains(&name(dlx.bit)));
                self.attempt(a).asked = asked.fold(0, |all, dlx| all | dlx.bit);
            }
            DrainOrder::Switch => self.attempt(a).switch = Some(Switch::Ordered),
            DrainOrder::Commit { expected, record } => {
                let record = Record { reason: String::new(), failed_wake: String::new(), ..record };
                self.begin_commit(a, expected, record);
            }
            DrainOrder::End(_) => self.world.autoscalers[a].attempt = None,
        }
    }

    pub(super) fn attempt(&mut self, a: usize) -> &mut Attempt {
        self.world.autoscalers[a].attempt.as_mut().expect("a step of an attempt under way")
    }

    /// An autoscaler that recovers a drain attempt knows whether it is its own.
    pub(super) fn is_rivals(&self, a: usize) -> bool {
        self.world.workload.record.phase == Phase::Draining && self.world.autoscalers[1 - a].attempt.is_some()
    }
}

/// The name under which an incarnation registers.
fn name(bit: u8) -> String {
    canon::member(0, bit.trailing_zeros() as u8)
}
