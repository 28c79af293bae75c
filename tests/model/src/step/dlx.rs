//! What a DLX does, and its requests.

use scaler_types::{
    Phase,
    protocol::{Gate, GateInput},
};

use super::{Done, Step};
use crate::{
    canon,
    event::Event,
    fault::Fault,
    world::{Author, Dlx, Old, Question},
};

// === impl Step ===

impl Step<'_> {
    pub(super) fn join(&mut self, d: usize) -> bool {
        self.world.incarnations[d] += 1;
        let name = canon::member(d, self.world.incarnations[d]);
        let mut dlx = Dlx::new(name, Gate::new(self.model.rules));
        if self.model.has(Fault::ListsBeforeRegistering) {
            dlx.following = true;
            dlx.stream.push(self.world.store.now.clone());
        } else {
            dlx.registered = true;
        }
        self.world.dlx[d] = Some(dlx);
        if self.world.store.now.record.phase == Phase::Draining {
            self.note(Event::JoinedDuringDrain);
        }
        true
    }

    pub(super) fn list(&mut self, d: usize) -> bool {
        let (now, before) = (self.world.store.now.clone(), self.world.store.before.clone());
        let dlx = self.dlx(d);
        dlx.following = true;
        dlx.stream.extend(before);
        dlx.stream.push(now);
        self.list_pods(d);
        true
    }

    pub(super) fn see(&mut self, d: usize, at: usize) -> bool {
        let reverts = self.model.has(Fault::RevertsByTimer);
        let dlx = self.dlx(d);
        let seen = dlx.stream.remove(at);
        dlx.mark &= !reverts;
        let ignored = {
            dlx.gate.step(GateInput::Saw(Some(seen.clone())));
            dlx.gate.seen() != Some(&seen)
        };
        if ignored {
            self.note(Event::StaleIgnored);
        }
        self.see_record(d, seen.scaled);
        true
    }

    pub(super) fn arrive(&mut self, d: usize) -> bool {
        self.world.left.requests -= 1;
        let model = self.model;
        let dlx = self.dlx(d);
        if model.has(Fault::LooksBeforeCounting) && !model.open(dlx) {
            dlx.held += 1;
        } else {
            dlx.looking += 1;
        }
        true
    }

    pub(super) fn look(&mut self, d: usize) -> bool {
        let model = self.model;
        let dlx = self.dlx(d);
        dlx.looking -= 1;
        if model.open(dlx) || model.has(Fault::LooksBeforeCounting) {
            dlx.sending += 1;
        } else {
            dlx.held += 1;
        }
        true
    }

    pub(super) fn reach(&mut self, d: usize) -> Done {
        let committed = self.world.store.committed;
        let sends_again = self.model.has(Fault::SendsAgain);
        let reaches = self.world.dlx[d].as_ref().and_then(|dlx| self.model.reaches(&self.world, dlx));
        if reaches == Some(Old::ByCommit) {
            return Err("a request reaches a pod that a commit has scaled to zero".into());
        }
        let up = reaches == Some(Old::Gone);
        let dlx = self.dlx(d);
        dlx.sending -= 1;
        if up && dlx.mark && sends_again {
            return Err("a request is sent twice".into());
        }
        if up {
            dlx.reached += 1;
        } else if committed {
            return Err("a request reaches a resource that a commit has scaled to zero".into());
        } else {
            dlx.held += 1;
            self.note(Event::RefusedAndHeld);
        }
        Ok(true)
    }

    pub(super) fn want(&mut self, d: usize) -> bool {
        let fresh = self.nonce();
        if self.model.has(Fault::WantsOnce) && std::mem::replace(&mut self.dlx(d).mark, true) {
            return false;
        }
        let wakes = self
            .world
            .dlx
            .iter()
            .flatten()
            .any(|dlx| dlx.wake.as_ref().is_some_and(|wake| wake.landed.is_none()));
        let done = self.gate(d, GateInput::Wanted { fresh });
        if wakes && self.dlx(d).wake.is_some() {
            self.note(Event::TwoWakes);
        }
        done
    }

    pub(super) fn crash(&mut self, d: usize) -> bool {
        self.world.left.dlx_crashes -= 1;
        self.orphan(Author::Gate(d));
        self.orphan(Author::Wake(d));
        let dlx = self.world.dlx[d].take();
        let asked = |question: &Question| {
            dlx.as_ref().is_some_and(|dlx| matches!(question, Question::Asked(name, _) if *name == dlx.name))
        };
        if self
            .world
            .autoscalers
            .iter()
            .filter_map(|autoscaler| autoscaler.attempt.as_ref())
            .any(|attempt| asked(&attempt.questions[d]))
        {
            self.note(Event::DiedWhileAsked);
        }
        true
    }

    /// A wake that was written turns out to be impossible; the plugin may have taken the scale back.
    pub(super) fn wake_fails(&mut self, d: usize, scaled: bool) -> bool {
        self.world.left.failures -= 1;
        if !scaled && self.world.store.now.scaled {
            self.world.store.now.scaled = false;
            self.changed();
        }
        let fresh = self.nonce();
        let dlx = self.dlx(d);
        dlx.wake = None;
        // Held requests are answered with the cause.
        dlx.held = 0;
        self.gate(d, GateInput::Woke { terminal: Some("it exits".into()), fresh });
        self.note(Event::WakeFailed)
    }
}
