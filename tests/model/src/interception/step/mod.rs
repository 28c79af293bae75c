//! What each step does. Each function returns whether the step was possible, or which property it breaks.

mod attempts;
mod autoscaler;
mod calls;
mod decide;
mod dlx;
mod person;

use scaler_types::{Backend, Nonce, TrafficMode, Version};

use super::{
    event::Event,
    fault::Fault,
    leader::{CallStep, Switch},
    model::{Action, Model},
    world::{PropagationDelay, View, World},
};
use crate::canon;

/// One step being taken.
pub struct Step<'a> {
    /// The traffic mode, the rules and the fault.
    pub model: &'a Model,
    /// The state, being changed.
    pub world: World,
    /// What happened.
    pub events: u64,
}

type Done = Result<bool, String>;

// === impl Step ===

impl Step<'_> {
    /// Takes it.
    ///
    /// # Errors
    ///
    /// The property that it breaks.
    pub fn take(&mut self, action: Action) -> Done {
        if !self.act(action)? {
            return Ok(false);
        }
        let (through, backlog) = (self.world.is_through(), self.world.backlog());
        self.world.delays().for_each(|delay| delay.look(through, &backlog));
        self.check()?;
        Ok(true)
    }

    fn act(&mut self, action: Action) -> Done {
        Ok(match action {
            Action::Controller => self.controller(),
            Action::Ready => {
                let comes = self.world.workload.scaled && !self.world.up;
                self.world.up |= comes;
                comes
            }
            Action::Follow { n } => self.follow(n),
            Action::Connect { n } => self.connect(n),
            Action::EndDirect => take_one(&mut self.world.direct.seen),
            Action::Pool => self.pool(),
            Action::Reuse => self.reuse(),
            Action::EndUnseen => take_one(&mut self.world.direct.unseen),
            Action::See { d } => self.see(d),
            Action::Arrive { d } => return self.arrive(d),
            Action::Dispatch { d } => self.dispatch(d),
            Action::End { d } => take_one(&mut self.dlx(d).in_flight),
            Action::Want { d } => self.want(d),
            Action::Answers { d } => self.answers(d),
            Action::Join { d } => self.join(d),
            Action::Leave { d } => self.leave(d),
            Action::Unnamed { d } => self.unnamed(d),
            Action::Gone { d } => self.gone(d),
            Action::Die { d } => self.die(d),
            Action::Look { a } => self.look(a),
            Action::Decide { a, dead } => self.decide(a, dead),
            Action::Land { a } => self.land(a),
            Action::Cover { a } => self.cover(a),
            Action::Begin { a } => self.begin(a),
            Action::Ask { a, d } => self.ask(a, d),
            Action::GiveUp { a } => self.give_up(a),
            Action::Sample { a } => self.sample(a),
            Action::Sampled { a } => self.sampled(a),
            Action::Commit { a } => return self.commit(a),
            Action::Recover { a } => self.recover(a),
            Action::Crash { a } => self.crash(a),
            Action::LandOrphan { o } => return self.land_orphan(o),
            Action::Vanish { o } => {
                self.world.orphans.remove(o);
                true
            }
            Action::RemoveKey => self.remove_key(),
            Action::DeleteSlice => self.delete_slice(),
            Action::DeleteOwn => self.delete_own(),
            Action::ManualZero => self.manual_zero(),
            Action::ManualUp => self.manual_up(),
            Action::OptOut => self.opt_out(),
        })
    }

    /// What must hold in every state.
    fn check(&mut self) -> Result<(), String> {
        let world = &self.world;
        for node in &world.nodes {
            if world.committed && node.sees.own {
                return Err("a new connection goes to a pod that a commit has stopped".into());
            }
            if node.sees.dlxs & world.ended != 0 {
                return Err("a new connection goes to a DLX that has ended in good order".into());
            }
        }
        if world.view() == View::default() && !world.forgiven {
            return Err("new connections have no endpoint".into());
        }
        let coming = |at| world.calls().any(|call| call.at == at);
        // An autoscaler that saw the pods before they were stopped may yet remove our slice.
        let mut views = world.autoscalers.iter().filter_map(|autoscaler| autoscaler.observed.as_ref());
        let removed =
            world.calls().any(|call| call.to == Some(Backend::Workload) || call.at == CallStep::NoSlice)
                || views.any(|observed| observed.own && observed.slice.is_some());
        let for_good =
            (world.slice.is_some() && !removed) || (world.up && world.own && !coming(CallStep::Key));
        self.world.forgiven &= !(for_good && world.is_through());
        Ok(())
    }

    // The controller and the nodes.

    fn controller(&mut self) -> bool {
        if self.world.is_through() {
            return false;
        }
        self.world.own = self.world.up && self.world.service.key.is_none();
        self.publish_slices();
        true
    }

    /// The slices have changed.
    fn publish_slices(&mut self) {
        let view = self.world.view();
        for node in &mut self.world.nodes {
            if *node.behind.last().unwrap_or(&node.sees) != view {
                node.behind.push(view);
            }
        }
    }

    fn follow(&mut self, n: usize) -> bool {
        if self.world.nodes[n].behind.is_empty() {
            return false;
        }
        for delay in self.world.delays().filter(|delay| delay.through) {
            delay.left[n] = delay.left[n].saturating_sub(1);
        }
        let node = &mut self.world.nodes[n];
        node.sees = node.behind.remove(0);
        let live = self.world.dlxs.iter().flatten().fold(0, |all, dlx| all | dlx.bit);
        if self.world.nodes[n].sees.dlxs & !live != 0 {
            self.note(Event::DeadNamed);
        }
        true
    }

    // Requests that pass no DLX.

    fn connect(&mut self, n: usize) -> bool {
        if self.world.left.connections == 0 || !self.world.nodes[n].sees.own || !self.world.up {
            return false;
        }
        self.world.left.connections -= 1;
        self.world.direct.seen += 1;
        if self.model.traffic_mode == TrafficMode::Always {
            self.note(Event::PastDlxs);
        }
        self.be_seen();
        true
    }

    /// A request is at a pod while a sample is taken.
    fn be_seen(&mut self) {
        let attempts = self.world.autoscalers.iter_mut().filter_map(|autoscaler| autoscaler.attempt.as_mut());
        for attempt in attempts {
            if let Some(Switch::Sampling(idle)) = &mut attempt.switch {
                *idle = false;
            }
        }
    }

    fn pool(&mut self) -> bool {
        let direct = &mut self.world.direct;
        if self.world.left.pools == 0 || !take_one(&mut direct.seen) {
            return false;
        }
        self.world.left.pools -= 1;
        direct.pooled += 1;
        true
    }

    fn reuse(&mut self) -> bool {
        let mut attempts = self.world.autoscalers.iter().filter_map(|autoscaler| autoscaler.attempt.as_ref());
        let sampled = attempts.any(|attempt| matches!(attempt.switch, Some(Switch::Sampled)));
        let unseen = sampled || self.world.commits() || self.model.traffic_mode == TrafficMode::Always;
        let direct = &mut self.world.direct;
        if !take_one(&mut direct.pooled) {
            return false;
        }
        if unseen {
            direct.unseen += 1;
        } else {
            direct.seen += 1;
        }
        self.be_seen();
        true
    }

    // Small things.

    fn nonce(&mut self) -> Nonce {
        self.world.names += 1;
        canon::nonce(self.world.names)
    }

    fn version(&mut self) -> Version {
        self.world.names += 1;
        canon::version(self.world.names)
    }

    fn note(&mut self, event: Event) -> bool {
        self.events |= event.bit();
        true
    }

    /// Whether a propagation delay is over, as far as its time goes.
    fn is_over(&self, delay: &PropagationDelay) -> bool {
        delay.is_over() || (delay.through && self.has(Fault::NodesOutlastDelay))
    }

    fn has(&self, fault: Fault) -> bool {
        self.model.has(fault)
    }
}

fn take_one(number: &mut u8) -> bool {
    let some = *number > 0;
    *number -= u8::from(some);
    some
}
