//! The steps that can be taken, and what holds at the end.

use scaler_types::{
    Phase, Record,
    protocol::{Gate, GateInput, Rules, Seen},
};

use crate::{
    canon, explore,
    fault::Fault,
    world::{Author, Autoscaler, Budget, Dlx, Old, Store, World},
};

/// A model: the rules in force, a fault, and how much may happen.
#[derive(Clone, Debug)]
pub struct Model {
    /// The protocol's rules.
    pub rules: Rules,
    /// What is wrong in the daemons or around them.
    pub fault: Option<Fault>,
    /// What may happen.
    pub budget: Budget,
    /// Whether a commit that cuts a request counts as broken; without it what reaches a sleeping resource has to.
    pub cuts_count: bool,
    /// DLXs that run at the beginning.
    pub dlxs: usize,
    /// Places in which a DLX can run: an empty one is taken by a new incarnation at any time.
    pub places: usize,
    /// Autoscalers that believe to be the leader.
    pub autoscalers: usize,
    /// What is scaled to zero answers for a while, and each DLX's plugin learns of it late: pods have a watch of their own.
    pub pods_lag: bool,
    /// It begins right after a commit, of which no DLX knows yet, instead of active.
    pub slept: bool,
}

/// A step. The numbers say which DLX (`d`) or autoscaler (`a`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it; crate::step says the rest")]
pub enum Action {
    Join { d: usize },
    List { d: usize },
    Register { d: usize },
    See { d: usize, at: usize },
    Skip { d: usize },
    Repeat { d: usize },
    Arrive { d: usize },
    Look { d: usize },
    Reach { d: usize },
    Finish { d: usize },
    Dispatch { d: usize },
    Want { d: usize },
    Answers { d: usize },
    RevertByTimer { d: usize },
    Crash { d: usize },
    Freeze { d: usize },
    Resume { d: usize },
    Leave { d: usize },
    Gone { d: usize },
    WakeFails { d: usize, scaled: bool },
    Begin { a: usize },
    ReadMembers { a: usize },
    Ask { a: usize, d: usize },
    Hear { a: usize, d: usize },
    GiveUp { a: usize },
    Recover { a: usize },
    CrashAutoscaler { a: usize },
    Resize { a: usize },
    WakeByLeader { a: usize },
    Land(Author),
    Answer(Author),
    Lose(Author),
    Vanish { orphan: usize },
    Ready,
    ManualZero,
    ManualScale,
    Keep,
    Undo,
    SeePods { d: usize },
    ListPods { d: usize },
    MarkOld,
    StopOld,
}

// === impl Model ===

impl explore::Model for Model {
    type State = World;
    type Action = Action;

    fn initial(&self) -> World {
        let state = |state, version| {
            let version = canon::version(version);
            Seen {
                record: Record { phase: state, ..Record::default() },
                version,
                scaled: state != Phase::Asleep,
            }
        };
        let now = if self.slept { state(Phase::Asleep, 2) } else { state(Phase::Active, 0) };
        let dlx = |place: usize| {
            (place < self.dlxs).then(|| {
                let mut dlx = Dlx::new(canon::member(place, 0), Gate::new(self.rules));
                (dlx.registered, dlx.following) = (true, true);
                dlx.stream.push(now.clone());
                (dlx.pods.old, dlx.pods.new) = (self.slept && self.pods_lag, !self.slept && self.pods_lag);
                if self.slept {
                    // Each has confirmed the drain attempt.
                    dlx.gate.step(GateInput::Saw(Some(state(Phase::Draining, 1))));
                }
                dlx
            })
        };
        let dlx = [dlx(0), dlx(1)];
        World {
            incarnations: [0, 0],
            store: Store {
                now,
                before: None,
                up: !self.slept,
                committed: self.slept,
                old: if self.slept && self.pods_lag { Old::ByCommit } else { Old::Gone },
                marked: false,
                replicas: 1,
                resized: false,
            },
            dlx,
            autoscalers: [Autoscaler::default(), Autoscaler::default()],
            orphans: Vec::new(),
            kept: None,
            left: self.budget,
            names: 2,
        }
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for d in 0..self.places {
            self.actions_of_dlx(world, d, actions);
        }
        for a in 0..self.autoscalers {
            actions.extend([
                Action::Begin { a },
                Action::ReadMembers { a },
                Action::GiveUp { a },
                Action::Recover { a },
                Action::Resize { a },
                Action::WakeByLeader { a },
            ]);
            if world.autoscalers[a].scale.is_some() {
                actions.push(Action::CrashAutoscaler { a });
            }
            if world.autoscalers[a].attempt.is_some() {
                actions.extend((0..2).flat_map(|d| [Action::Ask { a, d }, Action::Hear { a, d }]));
                actions.push(Action::CrashAutoscaler { a });
            }
        }
        let places = (0..2).flat_map(|i| {
            [Author::Gate(i), Author::Wake(i), Author::Drain(i), Author::Recovery(i), Author::Scale(i)]
        });
        for author in places {
            match world.write(author).map(|write| write.landed.is_some()) {
                Some(false) => actions.extend([Action::Land(author), Action::Lose(author)]),
                Some(true) => actions.extend([Action::Answer(author), Action::Lose(author)]),
                None => {}
            }
        }
        for orphan in 0..world.orphans.len() {
            actions.extend([Action::Land(Author::Orphan(orphan)), Action::Vanish { orphan }]);
        }
        actions.extend([Action::Ready, Action::ManualZero, Action::ManualScale, Action::Keep, Action::Undo]);
        if self.pods_lag {
            actions.extend([Action::MarkOld, Action::StopOld]);
        }
    }

    fn next(&self, world: &World, action: &Action, events: &mut u64) -> Result<Option<World>, String> {
        if !self.may(world, action) {
            return Ok(None);
        }
        let mut step = crate::step::Step { model: self, world: world.clone(), events: 0 };
        let done = step.take(action)?;
        if done {
            *events |= step.events;
        }
        Ok(done.then_some(step.world))
    }

    fn fingerprint(&self, world: &World) -> u64 {
        world.fingerprint()
    }

    fn wrong_end(&self, world: &World) -> Option<String> {
        if matches!(world.store.now.record.phase, Phase::Draining | Phase::Waking) {
            return Some(format!("it ends {}", world.store.now.record.phase));
        }
        if world.store.now.scaled && world.store.now.record.phase == Phase::Asleep {
            return Some("it ends asleep with replicas".into());
        }
        world
            .dlx
            .iter()
            .flatten()
            .filter(|dlx| !dlx.frozen && !dlx.idle())
            .map(|dlx| format!("it ends with {} held, {} in flight", dlx.held, dlx.in_flight()))
            .next()
    }
}

impl Model {
    /// The faultless model with every rule.
    pub fn new(budget: Budget) -> Self {
        Self {
            rules: Rules::default(),
            fault: None,
            budget,
            cuts_count: true,
            dlxs: 2,
            places: 2,
            autoscalers: 2,
            pods_lag: false,
            slept: false,
        }
    }

    /// Whether a fault is in force.
    pub fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// Whether a DLX forwards.
    pub fn open(&self, dlx: &Dlx) -> bool {
        dlx.gate.open() || (dlx.mark && self.has(Fault::RevertsByTimer))
    }

    /// What a DLX's request would reach now: the old process or the one of now, or nothing.
    pub fn reaches(&self, world: &World, dlx: &Dlx) -> Option<Old> {
        let up = world.store.up.then_some(Old::Gone);
        if !self.pods_lag {
            return up;
        }
        let buries = !self.has(Fault::ForgetsOldPods);
        let listed = |known: bool, buried: bool| known && !(buried && buries);
        let old = Some(world.store.old).filter(|old| *old != Old::Gone);
        // The worst it may choose.
        old.filter(|_| listed(dlx.pods.old, dlx.pods.old_buried))
            .or(up.filter(|_| listed(dlx.pods.new, dlx.pods.new_buried)))
    }

    fn actions_of_dlx(&self, world: &World, d: usize, actions: &mut Vec<Action>) {
        let Some(dlx) = &world.dlx[d] else {
            actions.push(Action::Join { d });
            return;
        };
        actions.extend([Action::Crash { d }, Action::Freeze { d }, Action::Resume { d }]);
        // What is on its way or done at the resource goes on by itself.
        actions.extend([Action::Reach { d }, Action::Finish { d }]);
        if dlx.frozen {
            return;
        }
        let seeable =
            if self.has(Fault::StreamOutOfOrder) { dlx.stream.len() } else { dlx.stream.len().min(1) };
        actions.extend((0..seeable).map(|at| Action::See { d, at }));
        actions.extend([
            Action::List { d },
            Action::Register { d },
            Action::Skip { d },
            Action::Repeat { d },
            Action::Arrive { d },
            Action::Look { d },
            Action::Dispatch { d },
            Action::Want { d },
            Action::Answers { d },
            Action::Leave { d },
            Action::Gone { d },
            Action::WakeFails { d, scaled: true },
            Action::WakeFails { d, scaled: false },
        ]);
        if self.has(Fault::RevertsByTimer) {
            actions.push(Action::RevertByTimer { d });
        }
        if self.pods_lag {
            actions.extend([Action::SeePods { d }, Action::ListPods { d }]);
        }
    }

    /// What can be checked without touching the state: most candidates end here, and cost no copy.
    fn may(&self, world: &World, action: &Action) -> bool {
        let left = &world.left;
        let dlx = |d: usize| world.dlx[d].as_ref();
        match *action {
            Action::Join { .. } | Action::See { .. } | Action::RevertByTimer { .. } => true,
            Action::List { d } => dlx(d).is_some_and(|dlx| dlx.registered && !dlx.following),
            Action::Register { d } => dlx(d).is_some_and(|dlx| !dlx.registered && !dlx.leaving),
            Action::Skip { d } => dlx(d).is_some_and(|dlx| dlx.stream.len() > 1),
            Action::Repeat { d } => left.repeats > 0 && dlx(d).is_some_and(|dlx| dlx.following),
            Action::Arrive { d } => {
                left.requests > 0 && dlx(d).is_some_and(|dlx| dlx.gate.seen().is_some() && !dlx.leaving)
            }
            Action::Look { d } => dlx(d).is_some_and(|dlx| dlx.looking > 0),
            Action::Reach { d } => dlx(d).is_some_and(|dlx| dlx.sending > 0),
            Action::Finish { d } => dlx(d).is_some_and(|dlx| dlx.reached > 0),
            Action::Dispatch { d } => {
                dlx(d).is_some_and(|dlx| dlx.held > 0 && self.open(dlx) && self.reaches(world, dlx).is_some())
            }
            Action::Want { d } => dlx(d).is_some_and(|dlx| dlx.held > 0),
            Action::Answers { d } => dlx(d).is_some_and(|dlx| self.reaches(world, dlx).is_some()),
            Action::Crash { .. } => left.dlx_crashes > 0,
            Action::Freeze { d } => left.freezes > 0 && dlx(d).is_some_and(|dlx| !dlx.frozen),
            Action::Resume { d } => left.resumes > 0 && dlx(d).is_some_and(|dlx| dlx.frozen),
            Action::Leave { d } => left.leaves > 0 && dlx(d).is_some_and(|dlx| !dlx.leaving),
            Action::Gone { d } => dlx(d).is_some_and(|dlx| dlx.leaving && dlx.idle()),
            Action::WakeFails { d, .. } => {
                left.failures > 0
                    && !world.store.up
                    && dlx(d)
                        .and_then(|dlx| dlx.wake.as_ref())
                        .is_some_and(|wake| matches!(wake.landed, Some(Some(_))))
            }
            Action::Begin { a } => {
                left.drains > 0 && world.autoscalers[a].attempt.is_none() && world.store.now.scaled
            }
            Action::ReadMembers { a } => {
                world.autoscalers[a].attempt.as_ref().is_some_and(|attempt| attempt.reading)
            }
            Action::Ask { .. }
            | Action::Hear { .. }
            | Action::Land(_)
            | Action::Answer(_)
            | Action::Vanish { .. } => true,
            Action::GiveUp { a } => world.autoscalers[a]
                .attempt
                .as_ref()
                .is_some_and(|attempt| attempt.write.is_none() && !attempt.reading),
            Action::Recover { a } => !self.has(Fault::NoRecovery) && world.autoscalers[a].recovery.is_none(),
            Action::CrashAutoscaler { .. } => left.autoscaler_crashes > 0,
            Action::Resize { a } => left.resizes > 0 && world.autoscalers[a].scale.is_none(),
            Action::WakeByLeader { a } => left.metrics > 0 && world.autoscalers[a].scale.is_none(),
            Action::Lose(_) => left.unknowns > 0,
            Action::Ready => world.store.now.scaled && !world.store.up,
            Action::ManualZero => left.zeros > 0 && world.store.now.scaled,
            Action::ManualScale => left.others > 0,
            Action::Keep => left.undos > 0 && world.kept.is_none(),
            Action::Undo => left.undos > 0 && world.kept.is_some(),
            Action::SeePods { d } => dlx(d).is_some_and(|dlx| dlx.following),
            Action::ListPods { d } => {
                !self.has(Fault::BuriesForGood)
                    && dlx(d)
                        .is_some_and(|dlx| !dlx.pods.zero && (dlx.pods.old_buried || dlx.pods.new_buried))
            }
            Action::MarkOld => world.store.old != Old::Gone && !world.store.marked,
            Action::StopOld => world.store.marked,
        }
    }
}
