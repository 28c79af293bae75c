//! What an autoscaler does, and how a DLX answers it.

use std::collections::BTreeSet;

use scaler_types::{
    Phase,
    protocol::{self, Drain, DrainInput, GateInput, GateOrder, Refusal, WakeSeen, recover, transition},
};

use super::Step;
use crate::{
    event::Event,
    fault::Fault,
    world::{Attempt, Kind, Question, Write},
};

// === impl Step ===

impl Step<'_> {
    pub(super) fn begin(&mut self, a: usize) -> bool {
        let fresh = self.nonce();
        let begun = Drain::begin(self.model.rules, self.world.store.now.clone(), fresh, "");
        let Some((drain, order)) = begun else { return false };
        self.world.left.drains -= 1;
        let questions = [Question::None, Question::None];
        self.world.autoscalers[a].attempt = Some(Attempt { drain, reading: false, write: None, questions });
        self.drain_order(a, order);
        true
    }

    pub(super) fn read_members(&mut self, a: usize) -> bool {
        let model = self.model;
        let members: BTreeSet<String> = (0..2)
            .filter_map(|d| self.world.dlx[d].as_ref().filter(|dlx| dlx.registered))
            .filter(|dlx| !(dlx.frozen && model.has(Fault::UnreachableIsDead)))
            .filter(|dlx| dlx.name.ends_with('0') || !model.has(Fault::ForgetsJoined))
            .map(|dlx| dlx.name.clone())
            .collect();
        if members.is_empty() {
            self.note(Event::NoMembers);
        }
        self.attempt(a).reading = false;
        let fresh = self.nonce();
        self.drain(a, DrainInput::Members { members, fresh })
    }

    pub(super) fn ask(&mut self, a: usize, d: usize) -> bool {
        let Question::Asked(name, nonce) = self.attempt(a).questions[d].clone() else { return false };
        let Some(dlx) = self.world.dlx[d].as_mut().filter(|dlx| !dlx.frozen && dlx.name == name) else {
            return false;
        };
        // The fault's requests are counted only when they have looked.
        let uncounted = if self.model.has(Fault::LooksBeforeCounting) { dlx.looking } else { 0 };
        let in_flight = u64::from(dlx.in_flight() - uncounted);
        let answer = match dlx.gate.step(GateInput::Asked { nonce, in_flight, held: dlx.held.into() }) {
            GateOrder::Confirm => Question::Confirmed(name),
            // It waits until its view shows the drain attempt.
            GateOrder::Refuse(Refusal::NotSeen) => return false,
            _ => Question::Refused(name),
        };
        if in_flight > 0 && matches!(answer, Question::Refused(_)) {
            self.note(Event::RefusedInFlight);
        }
        self.attempt(a).questions[d] = answer;
        true
    }

    pub(super) fn hear(&mut self, a: usize, d: usize) -> bool {
        let fresh = self.nonce();
        let attempt = self.attempt(a);
        let late = attempt.write.is_some();
        match std::mem::replace(&mut attempt.questions[d], Question::None) {
            Question::Confirmed(name) => {
                if late {
                    self.note(Event::LateConfirm);
                }
                self.drain(a, DrainInput::Confirmed(name))
            }
            Question::Refused(_) => self.drain(a, DrainInput::Refused { fresh }),
            _ => false,
        }
    }

    pub(super) fn recover(&mut self, a: usize) -> bool {
        let fresh = self.nonce();
        let now = &self.world.store.now;
        let mine = self.world.autoscalers[a].attempt.is_some();
        let Some(record) = recover(now, mine, WakeSeen::Unknown, fresh) else { return false };
        let write = Write::new(Kind::Record, now.version.clone(), record);
        if now.record.phase == Phase::Draining && self.world.autoscalers[1 - a].attempt.is_some() {
            self.note(Event::RivalReverted);
        }
        self.world.autoscalers[a].recovery = Some(write);
        true
    }

    /// Another number of replicas, by a leader or by one that was it.
    pub(super) fn resize(&mut self, a: usize) -> bool {
        let fresh = self.nonce();
        let now = self.world.store.now.clone();
        let draining = now.record.phase == Phase::Draining && self.model.has(Fault::ResizesWhileDraining);
        let resized = match draining {
            true => Some(now.record.clone()),
            false => transition(&now, protocol::Step::Resize, fresh, ""),
        };
        let Some(mut record) = resized else { return false };
        if self.model.has(Fault::ResizeKeepsNonce) {
            record.nonce = now.record.nonce;
        }
        // Each another number.
        let replicas = self.world.left.resizes + 1;
        self.world.left.resizes -= 1;
        self.world.autoscalers[a].scale = Some(Write::new(Kind::Resize(replicas), now.version, record));
        true
    }

    /// Messages wait, or its users want it awake.
    pub(super) fn wake_by_leader(&mut self, a: usize) -> bool {
        let fresh = self.nonce();
        let now = &self.world.store.now;
        let Some(record) = transition(now, protocol::Step::WakeByLeader, fresh, "") else { return false };
        let write = Write::new(Kind::WakeByLeader, now.version.clone(), record);
        self.world.left.metrics -= 1;
        self.world.autoscalers[a].scale = Some(write);
        true
    }
}
