//! What each step does.

mod autoscaler;
mod dlx;
mod person;
mod pods;
mod writes;

use scaler_types::{
    Nonce, Phase, Version,
    protocol::{DrainInput, DrainOrder, GateInput, GateOrder, Outcome},
};

use crate::{
    canon,
    event::Event,
    fault::Fault,
    model::{Action, Model},
    world::{Attempt, Author, Dlx, Kind, Question, World, Write},
};

/// One step being taken. Each function returns whether the step was possible.
pub struct Step<'a> {
    /// The rules and the fault.
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
    pub fn take(&mut self, action: &Action) -> Done {
        let before = self.world.store.now.clone();
        let done = self.act(action);
        if self.model.has(Fault::ListsThePast) && self.world.store.now.version != before.version {
            self.world.store.before = Some(before);
        }
        done
    }

    fn act(&mut self, action: &Action) -> Done {
        Ok(match *action {
            Action::Join { d } => self.join(d),
            Action::List { d } => self.list(d),
            Action::Register { d } => {
                self.dlx(d).registered = true;
                true
            }
            Action::See { d, at } => self.see(d, at),
            Action::Skip { d } => {
                // Its plugin saw it all the same.
                let seen = self.dlx(d).stream.remove(0);
                self.see_record(d, seen.scaled);
                true
            }
            Action::Repeat { d } => {
                self.world.left.repeats -= 1;
                let now = self.world.store.now.clone();
                self.dlx(d).stream.push(now);
                true
            }
            Action::Arrive { d } => self.arrive(d),
            Action::Look { d } => self.look(d),
            Action::Reach { d } => return self.reach(d),
            Action::Finish { d } => {
                self.dlx(d).reached -= 1;
                true
            }
            Action::Dispatch { d } => {
                self.dlx(d).held -= 1;
                self.dlx(d).looking += 1;
                self.note(Event::HeldDispatched)
            }
            Action::Want { d } => self.want(d),
            Action::Answers { d } => {
                let fresh = self.nonce();
                self.gate(d, GateInput::Answers { fresh })
            }
            Action::RevertByTimer { d } => {
                let dlx = self.dlx(d);
                let draining = dlx.gate.seen().is_some_and(|seen| seen.record.phase == Phase::Draining);
                draining && dlx.held > 0 && !std::mem::replace(&mut dlx.mark, true)
            }
            Action::Crash { d } => self.crash(d),
            Action::Freeze { d } => {
                self.world.left.freezes -= 1;
                self.dlx(d).frozen = true;
                true
            }
            Action::Resume { d } => {
                self.world.left.resumes -= 1;
                self.dlx(d).frozen = false;
                true
            }
            Action::Leave { d } => {
                self.world.left.leaves -= 1;
                let early = self.model.has(Fault::LeavesEarly);
                self.dlx(d).leaving = true;
                self.dlx(d).registered &= !early;
                true
            }
            Action::Gone { d } => {
                self.world.dlx[d] = None;
                self.note(Event::Left)
            }
            Action::WakeFails { d, scaled } => self.wake_fails(d, scaled),
            Action::Begin { a } => self.begin(a),
            Action::ReadMembers { a } => self.read_members(a),
            Action::Ask { a, d } => self.ask(a, d),
            Action::Hear { a, d } => self.hear(a, d),
            Action::GiveUp { a } => {
                let fresh = self.nonce();
                self.note(Event::RevertedByRefusal) && self.drain(a, DrainInput::Refused { fresh })
            }
            Action::Recover { a } => self.recover(a),
            Action::CrashAutoscaler { a } => {
                self.world.left.autoscaler_crashes -= 1;
                self.orphan(Author::Drain(a));
                self.orphan(Author::Recovery(a));
                self.orphan(Author::Scale(a));
                self.world.autoscalers[a].attempt = None;
                true
            }
            Action::Resize { a } => self.resize(a),
            Action::WakeByLeader { a } => self.wake_by_leader(a),
            Action::Land(author) => return self.land(author),
            Action::Answer(author) => self.answer(author),
            Action::Lose(author) => self.lose(author),
            Action::Vanish { orphan } => {
                self.world.orphans.remove(orphan);
                true
            }
            Action::Ready => {
                self.world.store.up = true;
                true
            }
            Action::ManualZero => self.manual_zero(),
            Action::ManualScale => self.manual_scale(),
            Action::Keep => {
                self.world.kept = Some(self.world.store.now.record.clone());
                true
            }
            Action::Undo => self.undo(),
            Action::SeePods { d } => self.see_pods(d),
            Action::ListPods { d } => self.list_pods(d),
            Action::MarkOld => self.mark_old(),
            Action::StopOld => self.stop_old(),
        })
    }

    // The protocol's functions.

    fn gate(&mut self, d: usize, input: GateInput) -> bool {
        let now = self.world.store.now.clone();
        let dlx = self.dlx(d);
        match dlx.gate.step(input) {
            GateOrder::Write { expected, record } => {
                dlx.write = Some(Write::new(Kind::Record, expected, record))
            }
            GateOrder::Wake { expected, record } => dlx.wake = Some(Write::new(Kind::Wake, expected, record)),
            GateOrder::Refresh => {
                dlx.stream = vec![now];
                self.list_pods(d);
            }
            GateOrder::Nothing | GateOrder::Confirm | GateOrder::Refuse(_) => return false,
        }
        true
    }

    fn drain(&mut self, a: usize, input: DrainInput) -> bool {
        let order = self.attempt(a).drain.step(input);
        self.drain_order(a, order);
        true
    }

    fn drain_order(&mut self, a: usize, order: DrainOrder) {
        let attempt = self.attempt(a);
        match order {
            DrainOrder::Nothing => {}
            DrainOrder::Write { expected, record } => {
                attempt.write = Some(Write::new(Kind::Record, expected, record))
            }
            DrainOrder::Commit { expected, record } => {
                attempt.write = Some(Write::new(Kind::Commit, expected, record))
            }
            DrainOrder::ReadMembers => attempt.reading = true,
            DrainOrder::Ask { members, nonce } => {
                for name in members {
                    let place = usize::from(name.as_bytes()[1] - b'0');
                    attempt.questions[place] = Question::Asked(name, nonce);
                }
            }
            DrainOrder::Switch => unreachable!("interception has a model of its own"),
            DrainOrder::End(outcome) => {
                debug_assert!(matches!(outcome, Outcome::Asleep | Outcome::Reverted | Outcome::Unknown));
                self.world.autoscalers[a].attempt = None;
            }
        }
    }

    // Small things.

    fn dlx(&mut self, d: usize) -> &mut Dlx {
        self.world.dlx[d].as_mut().expect("a step of a DLX that runs")
    }

    fn attempt(&mut self, a: usize) -> &mut Attempt {
        self.world.autoscalers[a].attempt.as_mut().expect("a step of an attempt under way")
    }

    /// A frozen DLX receives nothing.
    fn is_frozen(&self, author: Author) -> bool {
        matches!(author, Author::Gate(d) | Author::Wake(d) if self.world.dlx[d].as_ref().is_some_and(|dlx| dlx.frozen))
    }

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
}
