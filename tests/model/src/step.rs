//! What each step does.

use std::collections::BTreeSet;

use scaler_types::{
    Nonce, State, Version,
    protocol::{
        Fence, FenceInput, FenceOrder, Gate, GateInput, GateOrder, Outcome, Refusal, Unwritten, recover,
    },
};

use crate::{
    canon,
    event::Event,
    fault::Fault,
    model::{Action, Model},
    world::{Attempt, Dlx, Kind, Question, Who, World, Write},
};

/// One step being taken. Each function tells whether the step was possible.
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
                self.dlx(d).stream.remove(0);
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
            Action::Release { d } => {
                self.dlx(d).held -= 1;
                self.dlx(d).looking += 1;
                self.note(Event::HeldReleased)
            }
            Action::Want { d } => self.want(d),
            Action::Answers { d } => {
                let fresh = self.nonce();
                self.gate(d, GateInput::Answers { fresh })
            }
            Action::Lift { d } => {
                let dlx = self.dlx(d);
                let fenced = dlx.gate.seen().is_some_and(|seen| seen.row.state == State::Draining);
                fenced && dlx.held > 0 && !std::mem::replace(&mut dlx.mark, true)
            }
            Action::Crash { d } => self.crash(d),
            Action::Silence { d } => {
                self.world.left.silences -= 1;
                self.dlx(d).silent = true;
                true
            }
            Action::Resume { d } => {
                self.world.left.resumes -= 1;
                self.dlx(d).silent = false;
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
                self.note(Event::RevertedByRefusal) && self.fence(a, FenceInput::Refused { fresh })
            }
            Action::Recover { a } => self.recover(a),
            Action::CrashAutoscaler { a } => {
                self.world.left.autoscaler_crashes -= 1;
                self.orphan(Who::Fence(a));
                self.orphan(Who::Recovery(a));
                self.world.autoscalers[a].attempt = None;
                true
            }
            Action::Land(who) => return self.land(who),
            Action::Answer(who) => self.answer(who),
            Action::Lose(who) => self.lose(who),
            Action::Vanish { orphan } => {
                self.world.orphans.remove(orphan);
                true
            }
            Action::Ready => {
                self.world.store.up = true;
                true
            }
            Action::HandZero => self.hand_zero(),
            Action::HandOther => self.hand_other(),
            Action::Keep => {
                self.world.kept = Some(self.world.store.now.row.clone());
                true
            }
            Action::Undo => self.undo(),
        })
    }

    // What a DLX does.

    fn join(&mut self, d: usize) -> bool {
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
        if self.world.store.now.row.state == State::Draining {
            self.note(Event::JoinedInsideFence);
        }
        true
    }

    fn list(&mut self, d: usize) -> bool {
        let (now, before) = (self.world.store.now.clone(), self.world.store.before.clone());
        let dlx = self.dlx(d);
        dlx.following = true;
        dlx.stream.extend(before);
        dlx.stream.push(now);
        true
    }

    fn see(&mut self, d: usize, at: usize) -> bool {
        let lifts = self.model.has(Fault::LiftsByTimer);
        let dlx = self.dlx(d);
        let seen = dlx.stream.remove(at);
        dlx.mark &= !lifts;
        let ignored = {
            dlx.gate.step(GateInput::Saw(Some(seen.clone())));
            dlx.gate.seen() != Some(&seen)
        };
        if ignored {
            self.note(Event::StaleIgnored);
        }
        true
    }

    fn arrive(&mut self, d: usize) -> bool {
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

    fn look(&mut self, d: usize) -> bool {
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

    fn reach(&mut self, d: usize) -> Done {
        let (up, committed) = (self.world.store.up, self.world.store.committed);
        let sends_again = self.model.has(Fault::SendsAgain);
        let dlx = self.dlx(d);
        dlx.sending -= 1;
        if up && dlx.mark && sends_again {
            return Err("a request is sent twice".into());
        }
        if up {
            dlx.reached += 1;
        } else if committed {
            return Err("a request reaches a resource that a commit has put to zero".into());
        } else {
            dlx.held += 1;
            self.note(Event::RefusedAndHeld);
        }
        Ok(true)
    }

    fn want(&mut self, d: usize) -> bool {
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

    fn crash(&mut self, d: usize) -> bool {
        self.world.left.dlx_crashes -= 1;
        self.orphan(Who::Gate(d));
        self.orphan(Who::Wake(d));
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
    fn wake_fails(&mut self, d: usize, scaled: bool) -> bool {
        self.world.left.failures -= 1;
        if !scaled && self.world.store.now.scaled {
            self.world.store.now.scaled = false;
            self.changed();
        }
        let fresh = self.nonce();
        let dlx = self.dlx(d);
        dlx.wake = None;
        // Those who wait are told why.
        dlx.held = 0;
        self.gate(d, GateInput::Woke { terminal: Some("it exits".into()), fresh });
        self.note(Event::WakeFailed)
    }

    // What an autoscaler does.

    fn begin(&mut self, a: usize) -> bool {
        let fresh = self.nonce();
        let begun = Fence::begin(self.model.rules, self.world.store.now.clone(), fresh, "");
        let Some((fence, order)) = begun else { return false };
        self.world.left.fences -= 1;
        let questions = [Question::None, Question::None];
        self.world.autoscalers[a].attempt = Some(Attempt { fence, reading: false, write: None, questions });
        self.fence_order(a, order);
        true
    }

    fn read_members(&mut self, a: usize) -> bool {
        let model = self.model;
        let members: BTreeSet<String> = (0..2)
            .filter_map(|d| self.world.dlx[d].as_ref().filter(|dlx| dlx.registered))
            .filter(|dlx| !(dlx.silent && model.has(Fault::SilenceIsDeath)))
            .filter(|dlx| dlx.name.ends_with('0') || !model.has(Fault::ForgetsJoined))
            .map(|dlx| dlx.name.clone())
            .collect();
        if members.is_empty() {
            self.note(Event::NoMembers);
        }
        self.attempt(a).reading = false;
        let fresh = self.nonce();
        self.fence(a, FenceInput::Members { members, fresh })
    }

    fn ask(&mut self, a: usize, d: usize) -> bool {
        let Question::Asked(name, nonce) = self.attempt(a).questions[d].clone() else { return false };
        let Some(dlx) = self.world.dlx[d].as_mut().filter(|dlx| !dlx.silent && dlx.name == name) else {
            return false;
        };
        // The fault's requests are counted only when they have looked.
        let uncounted = if self.model.has(Fault::LooksBeforeCounting) { dlx.looking } else { 0 };
        let in_flight = u64::from(dlx.in_flight() - uncounted);
        let answer = match dlx.gate.step(GateInput::Asked { nonce, in_flight, held: dlx.held.into() }) {
            GateOrder::Confirm => Question::Confirmed(name),
            // It waits until its view shows the fence.
            GateOrder::Refuse(Refusal::NotSeen) => return false,
            _ => Question::Refused(name),
        };
        if in_flight > 0 && matches!(answer, Question::Refused(_)) {
            self.note(Event::RefusedInFlight);
        }
        self.attempt(a).questions[d] = answer;
        true
    }

    fn hear(&mut self, a: usize, d: usize) -> bool {
        let fresh = self.nonce();
        let attempt = self.attempt(a);
        let late = attempt.write.is_some();
        match std::mem::replace(&mut attempt.questions[d], Question::None) {
            Question::Confirmed(name) => {
                if late {
                    self.note(Event::LateConfirm);
                }
                self.fence(a, FenceInput::Confirmed(name))
            }
            Question::Refused(_) => self.fence(a, FenceInput::Refused { fresh }),
            _ => false,
        }
    }

    fn recover(&mut self, a: usize) -> bool {
        let fresh = self.nonce();
        let now = &self.world.store.now;
        let mine = self.world.autoscalers[a].attempt.is_some();
        let Some(row) = recover(now, mine, true, fresh) else { return false };
        let write = Write::new(Kind::Row, now.version.clone(), row);
        if now.row.state == State::Draining && self.world.autoscalers[1 - a].attempt.is_some() {
            self.note(Event::RivalReverted);
        }
        self.world.autoscalers[a].recovery = Some(write);
        true
    }

    // What a person does.

    fn hand_zero(&mut self) -> bool {
        self.world.left.zeros -= 1;
        if self.world.store.now.row.state == State::Draining {
            self.note(Event::ZeroInsideFence);
        }
        let again = self.model.has(Fault::SendsAgain);
        self.world.store.now.scaled = false;
        self.world.store.up = false;
        self.world.store.committed = false;
        for dlx in self.world.dlx.iter_mut().flatten() {
            let cut = std::mem::take(&mut dlx.reached);
            if again && cut > 0 {
                (dlx.held, dlx.mark) = (dlx.held + cut, true);
            }
        }
        self.changed();
        true
    }

    fn hand_other(&mut self) -> bool {
        self.world.left.others -= 1;
        self.world.store.now.scaled = true;
        self.world.store.committed = false;
        self.changed();
        true
    }

    fn undo(&mut self) -> bool {
        self.world.left.undos -= 1;
        let Some(row) = self.world.kept.take() else { return false };
        self.note(Event::Undone);
        if self.world.store.now.row.state == State::Draining {
            self.note(Event::UndoneInsideFence);
        }
        self.world.store.now.row = row;
        self.changed();
        true
    }

    // Writes.

    fn land(&mut self, who: Who) -> Done {
        let Some(write) = self.world.write(who).cloned().filter(|write| write.landed.is_none()) else {
            return Ok(false);
        };
        let blind = write.kind == Kind::Commit && !self.model.rules.commit_tests_version;
        let stands = self.world.store.now.version == write.expected || blind;
        let version = if stands { Some(self.happen(who, &write)?) } else { None };
        if let Who::Orphan(orphan) = who {
            self.world.orphans.remove(orphan);
            if stands {
                self.note(Event::OrphanLanded);
            }
        } else if let Who::Recovery(a) = who {
            // Its answer changes nothing: the next look at the row says what is to be done.
            self.world.autoscalers[a].recovery = None;
        } else if let Some(Some(write)) = self.world.write_mut(who) {
            write.landed = Some(version);
        }
        Ok(true)
    }

    /// The write happens, row and scale in one step.
    fn happen(&mut self, who: Who, write: &Write) -> Result<Version, String> {
        let from = self.world.store.now.row.state;
        if matches!(who, Who::Recovery(_)) {
            let deserted = self.world.autoscalers.iter().all(|autoscaler| autoscaler.attempt.is_none());
            match from {
                State::Draining if deserted => self.note(Event::LeftBehindRecovered),
                State::Asleep => self.note(Event::WokenByHand),
                _ => false,
            };
        }
        if matches!(who, Who::Gate(_)) && from == State::Draining {
            self.note(Event::RevertedByRequest);
        }
        let silent = self.world.dlx.iter().flatten().any(|dlx| dlx.silent);
        if silent && write.row.state == State::Draining {
            self.note(Event::FencedOverSilence);
        }
        match write.kind {
            Kind::Row => {}
            Kind::Wake => {
                if from == State::Asleep {
                    self.note(Event::WokenByRequest);
                }
                self.world.store.now.scaled = true;
                self.world.store.committed = false;
            }
            Kind::Commit => {
                self.note(Event::Committed);
                let live = || self.world.dlx.iter().flatten();
                if live().any(|dlx| dlx.reached > 0) {
                    return Err("a commit cuts a request in flight".into());
                }
                if live().any(|dlx| dlx.silent && self.model.open(dlx)) {
                    return Err("a commit takes a DLX's silence for its consent".into());
                }
                if live().any(|dlx| dlx.gate.seen().is_none()) {
                    self.note(Event::CommittedPastJoiner);
                }
                self.world.store.now.scaled = false;
                self.world.store.up = false;
                self.world.store.committed = true;
            }
        }
        self.world.store.now.row = write.row.clone();
        Ok(self.changed())
    }

    /// Row or scale are others now: a new version, told to all who follow.
    fn changed(&mut self) -> Version {
        let version = self.version();
        self.world.store.now.version = version.clone();
        let now = self.world.store.now.clone();
        for dlx in self.world.dlx.iter_mut().flatten().filter(|dlx| dlx.following) {
            dlx.stream.push(now.clone());
        }
        version
    }

    fn answer(&mut self, who: Who) -> bool {
        if self.deaf(who) {
            return false;
        }
        let Some(write) = self.world.write_mut(who).and_then(Option::take) else { return false };
        let result = write.landed.clone().flatten().ok_or(Unwritten::Conflict);
        self.ended(who, write, result);
        true
    }

    fn lose(&mut self, who: Who) -> bool {
        if self.deaf(who) {
            return false;
        }
        self.world.left.unknowns -= 1;
        let Some(write) = self.world.write_mut(who).and_then(Option::take) else { return false };
        match who {
            Who::Wake(_) => self.note(Event::WakeUnknown),
            Who::Fence(_) if write.kind == Kind::Commit => self.note(Event::CommitUnknown),
            _ => true,
        };
        if write.landed.is_none() {
            self.world.orphans.push(write.clone());
        }
        let done = self.model.has(Fault::UnknownIsDone) && matches!(who, Who::Gate(_));
        let result = if done { Ok(self.version()) } else { Err(Unwritten::Unknown) };
        self.ended(who, write, result);
        true
    }

    /// The end of a write is told to whose it was.
    fn ended(&mut self, who: Who, write: Write, result: Result<Version, Unwritten>) {
        let Write { kind, expected, row, .. } = write;
        let fresh = self.nonce();
        match who {
            Who::Gate(d) => {
                let version = result.clone().ok();
                self.gate(d, GateInput::Wrote { expected, row, result });
                let seen = self.dlx(d).gate.seen().map(|seen| seen.version.clone());
                if version.is_some() && version != seen {
                    self.note(Event::OwnWriteOvertaken);
                }
            }
            Who::Wake(d) => {
                self.gate(d, GateInput::Woke { terminal: None, fresh });
            }
            Who::Fence(a) if kind == Kind::Commit => {
                if result == Err(Unwritten::Conflict) {
                    self.note(Event::CommitConflict);
                }
                self.fence(a, FenceInput::Scaled(result.map(|_| ())));
            }
            Who::Fence(a) => {
                self.fence(a, FenceInput::Wrote(result));
            }
            Who::Recovery(_) | Who::Orphan(_) => {}
        }
    }

    fn orphan(&mut self, who: Who) {
        let write = self.world.write_mut(who).and_then(Option::take);
        self.world.orphans.extend(write.filter(|write| write.landed.is_none()));
    }

    // The protocol's functions.

    fn gate(&mut self, d: usize, input: GateInput) -> bool {
        let now = self.world.store.now.clone();
        let dlx = self.dlx(d);
        match dlx.gate.step(input) {
            GateOrder::Write { expected, row } => dlx.write = Some(Write::new(Kind::Row, expected, row)),
            GateOrder::Wake { expected, row } => dlx.wake = Some(Write::new(Kind::Wake, expected, row)),
            GateOrder::Refresh => dlx.stream = vec![now],
            GateOrder::Nothing | GateOrder::Confirm | GateOrder::Refuse(_) => return false,
        }
        true
    }

    fn fence(&mut self, a: usize, input: FenceInput) -> bool {
        let order = self.attempt(a).fence.step(input);
        self.fence_order(a, order);
        true
    }

    fn fence_order(&mut self, a: usize, order: FenceOrder) {
        let attempt = self.attempt(a);
        match order {
            FenceOrder::Nothing => {}
            FenceOrder::Write { expected, row } => attempt.write = Some(Write::new(Kind::Row, expected, row)),
            FenceOrder::Commit { expected, row } => {
                attempt.write = Some(Write::new(Kind::Commit, expected, row))
            }
            FenceOrder::ReadMembers => attempt.reading = true,
            FenceOrder::Ask { members, nonce } => {
                for name in members {
                    let place = usize::from(name.as_bytes()[1] - b'0');
                    attempt.questions[place] = Question::Asked(name, nonce);
                }
            }
            FenceOrder::End(outcome) => {
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
        self.world.autoscalers[a].attempt.as_mut().expect("a step of a try under way")
    }

    /// A stopped DLX hears nothing.
    fn deaf(&self, who: Who) -> bool {
        matches!(who, Who::Gate(d) | Who::Wake(d) if self.world.dlx[d].as_ref().is_some_and(|dlx| dlx.silent))
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
