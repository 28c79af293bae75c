//! The steps that can be taken, and what holds at the end.

use scaler_types::{
    Backend, Phase, Record, TrafficMode,
    protocol::{self, Gate, GateInput, InterceptionSeen, Rules, Seen, interception_step},
};

use super::{
    fault::Fault,
    leader::{Autoscaler, InterceptedSince},
    step::Step,
    world::{self, Budget, Direct, Dlx, Node, PropagationDelay, Service, Slice, World},
};
use crate::{canon, explore};

/// A model: traffic mode, rules, a fault, and how much may happen.
#[derive(Clone, Debug)]
pub struct Model {
    /// The resource's traffic mode.
    pub traffic_mode: TrafficMode,
    /// How it begins.
    pub begins: Begins,
    /// The protocol's rules.
    pub rules: Rules,
    /// What is wrong in the daemons or around them.
    pub fault: Option<Fault>,
    /// What may happen.
    pub budget: Budget,
    /// Nodes.
    pub nodes: usize,
    /// DLXs that run at the beginning.
    pub dlxs: usize,
    /// Autoscalers that believe to be the leader.
    pub autoscalers: usize,
}

/// How a world begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begins {
    /// Active, nothing of ours on the Service.
    Workload,
    /// Active, and intercepted for longer than any window.
    Intercepted,
    /// Asleep, and intercepted.
    Asleep,
}

/// A step. The numbers say which node (`n`), DLX (`d`), autoscaler (`a`) or write without an author (`o`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it; super::step says the rest")]
pub enum Action {
    Controller,
    Ready,
    Follow { n: usize },
    Connect { n: usize },
    EndDirect,
    Pool,
    Reuse,
    EndUnseen,
    See { d: usize },
    Arrive { d: usize },
    Dispatch { d: usize },
    End { d: usize },
    Want { d: usize },
    Answers { d: usize },
    Join { d: usize },
    Leave { d: usize },
    Unnamed { d: usize },
    Gone { d: usize },
    Die { d: usize },
    Look { a: usize },
    Decide { a: usize, dead: bool },
    Land { a: usize },
    Cover { a: usize },
    Begin { a: usize },
    Ask { a: usize, d: usize },
    GiveUp { a: usize },
    Sample { a: usize },
    Sampled { a: usize },
    Commit { a: usize },
    Recover { a: usize },
    Crash { a: usize },
    LandOrphan { o: usize },
    Vanish { o: usize },
    RemoveKey,
    DeleteSlice,
    DeleteOwn,
    ManualZero,
    ManualUp,
    OptOut,
}

// === impl Model ===

impl explore::Model for Model {
    type State = World;
    type Action = Action;

    fn initial(&self) -> World {
        let (asleep, intercepted) = (self.begins == Begins::Asleep, self.begins != Begins::Workload);
        let state = if asleep { Phase::Asleep } else { Phase::Active };
        let record = Record { phase: state, ..Record::default() };
        let workload = Seen { record, version: canon::version(0), scaled: !asleep };
        let dlx = |d: usize| {
            (d < self.dlxs).then(|| {
                let mut gate = Gate::new(self.rules);
                gate.step(GateInput::Saw(Some(workload.clone())));
                Dlx { bit: 1 << d, gate, in_flight: 0, held: 0, leaving: false, unnamed: None }
            })
        };
        let (service, slice) = (canon::nonce(1), canon::nonce(2));
        let names = (1 << self.dlxs) - 1;
        let delay = PropagationDelay { through: true, left: [0; 2] };
        let since = InterceptedSince { service, delay, covered: true };
        let autoscaler = Autoscaler {
            intercepted: Some(since).filter(|_| self.traffic_mode == TrafficMode::Always && intercepted),
            ..Autoscaler::default()
        };
        let mut world = World {
            workload: workload.clone(),
            up: !asleep,
            committed: asleep,
            asked: true,
            service: Service { key: intercepted.then_some(world::INTERCEPTED), version: service },
            slice: Some(Slice { names, version: slice }).filter(|_| intercepted),
            own: !intercepted,
            forgiven: false,
            nodes: Vec::new(),
            direct: Direct::default(),
            dlxs: [dlx(0), dlx(1)],
            ended: 0,
            autoscalers: [0, 1]
                .map(|a| if a < self.autoscalers { autoscaler.clone() } else { Autoscaler::default() }),
            orphans: Vec::new(),
            left: self.budget,
            incarnations: u8::try_from(self.dlxs).expect("few"),
            names: 2,
        };
        world.nodes = vec![Node { sees: world.view(), behind: Vec::new() }; self.nodes];
        world
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        use Action::{
            Answers, Arrive, Ask, Begin, Commit, Connect, Controller, Cover, Crash, Decide, DeleteOwn,
            DeleteSlice, Die, Dispatch, End, EndDirect, EndUnseen, Follow, GiveUp, Gone, Join, Land,
            LandOrphan, Leave, Look, ManualUp, ManualZero, OptOut, Pool, Ready, Recover, RemoveKey, Reuse,
            Sample, Sampled, See, Unnamed, Vanish, Want,
        };
        actions.extend([Controller, Ready, EndDirect, Pool, Reuse, EndUnseen]);
        actions.extend((0..self.nodes).flat_map(|n| [Follow { n }, Connect { n }]));
        for d in 0..2 {
            if world.dlxs[d].is_none() {
                actions.push(Join { d });
                continue;
            }
            actions.extend([See { d }, Arrive { d }, Dispatch { d }, End { d }, Want { d }, Answers { d }]);
            actions.extend([Leave { d }, Unnamed { d }, Gone { d }, Die { d }]);
        }
        for a in 0..self.autoscalers {
            actions.extend([Look { a }, Decide { a, dead: false }, Decide { a, dead: true }, Land { a }]);
            actions.extend([Cover { a }, Begin { a }, Recover { a }, Crash { a }]);
            if world.autoscalers[a].attempt.is_some() {
                actions.extend([Ask { a, d: 0 }, Ask { a, d: 1 }, GiveUp { a }]);
                actions.extend([Sample { a }, Sampled { a }, Commit { a }]);
            }
        }
        actions.extend((0..world.orphans.len()).flat_map(|o| [LandOrphan { o }, Vanish { o }]));
        actions.extend([RemoveKey, DeleteSlice, DeleteOwn, ManualZero, ManualUp, OptOut]);
    }

    fn next(&self, world: &World, action: &Action, events: &mut u64) -> Result<Option<World>, String> {
        let mut step = Step { model: self, world: world.clone(), events: 0 };
        let done = step.take(*action)?;
        if done {
            *events |= step.events;
        }
        Ok(done.then_some(step.world))
    }

    fn fingerprint(&self, world: &World) -> u64 {
        world.fingerprint()
    }

    fn wrong_end(&self, world: &World) -> Option<String> {
        let state = world.workload.record.phase;
        if matches!(state, Phase::Draining | Phase::Waking) {
            return Some(format!("it ends {state}"));
        }
        if world.workload.scaled && state == Phase::Asleep {
            return Some("it ends asleep with replicas".into());
        }
        if let Some(dlx) = world.dlxs.iter().flatten().find(|dlx| dlx.held + dlx.in_flight > 0) {
            return Some(format!("it ends with {} held, {} in flight", dlx.held, dlx.in_flight));
        }
        let (backend, serving) = (world.backend(), world.serving());
        let right = match (world.asked, self.traffic_mode, state, world.workload.scaled) {
            _ if serving == 0 => backend != Backend::Dlx && (backend == Backend::Workload || !world.up),
            // A sleeping workload is not woken for it: a request wakes it, and then it is restored.
            (false, ..) => match backend {
                Backend::Workload => true,
                Backend::Both => !world.up,
                Backend::Dlx => !world.workload.scaled,
                Backend::Unknown => false,
            },
            (true, TrafficMode::Always, ..) => backend == Backend::Dlx,
            (true, _, Phase::Active | Phase::Failed, true) => backend == Backend::Workload,
            // A person scaled it to zero.
            (true, _, Phase::Active, false) => true,
            (true, ..) => backend == Backend::Dlx,
        };
        if !right {
            return Some(format!("it ends {state}, with the backend {backend:?}"));
        }
        match &world.slice {
            Some(slice) if serving != 0 && slice.names != serving => {
                Some(format!("it ends with {:b} named while {serving:b} serve", slice.names))
            }
            None if backend == Backend::Dlx => Some("it ends with the key alone".into()),
            _ => None,
        }
    }
}

impl Model {
    /// The faultless model: one node, one DLX, one autoscaler.
    pub fn new(traffic_mode: TrafficMode, begins: Begins, budget: Budget) -> Self {
        Self {
            traffic_mode,
            begins,
            rules: Rules::default(),
            fault: None,
            budget,
            nodes: 1,
            dlxs: 1,
            autoscalers: 1,
        }
    }

    /// Whether a fault is in force.
    pub fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// The next backend, for an autoscaler that saw `service` and `slice`.
    pub fn interception_step(&self, workload: &Seen, input: &InterceptionInput<'_>) -> Option<Backend> {
        interception_step(&InterceptionSeen {
            traffic_mode: self.traffic_mode,
            requested: input.asked,
            backend: world::backend(input.service, input.slice),
            in_sync: input.slice.is_some(),
            phase: workload.record.phase,
            scaled: workload.scaled,
            confirmed: input.confirmed,
            workload_known: input.known,
            workload_ready: input.ready,
            dlxs: match (input.serving, input.dead) {
                (0, true) => protocol::Dlxs::Dead,
                (0, false) => protocol::Dlxs::Away,
                _ => protocol::Dlxs::Serving,
            },
        })
    }

    /// Whether the interception may have to be changed. (What is seen of a settled one is seen as well when it is not any more.)
    pub fn is_unsettled(&self, world: &World, a: usize) -> bool {
        let now = |dead| InterceptionInput {
            service: &world.service,
            slice: world.slice.as_ref(),
            asked: world.asked,
            ready: world.up,
            known: world.up,
            confirmed: false,
            serving: world.serving(),
            dead,
        };
        let autoscaler = &world.autoscalers[a];
        let waits = self.traffic_mode == TrafficMode::Always
            && world.left.drains > 0
            && world.backend() == Backend::Dlx
            && autoscaler
                .intercepted
                .as_ref()
                .is_none_or(|intercepted| intercepted.service != world.service.version);
        waits
            || world.workload.record.phase == Phase::Draining
            || world.calls().next().is_some()
            || world.autoscalers.iter().any(|autoscaler| autoscaler.attempt.is_some())
            || [false, true].iter().any(|dead| self.interception_step(&world.workload, &now(*dead)).is_some())
            || self.needs_sync(world.slice.as_ref(), world.serving())
    }

    /// Whether a slice is to be brought up to date.
    pub fn needs_sync(&self, slice: Option<&Slice>, serving: world::Dlxs) -> bool {
        serving != 0 && slice.is_some_and(|slice| slice.names != serving)
    }
}

/// What a decision on an interception is made on.
#[derive(Clone, Copy, Debug)]
pub struct InterceptionInput<'a> {
    /// The Service.
    pub service: &'a Service,
    /// Our slice.
    pub slice: Option<&'a Slice>,
    /// It is requested.
    pub asked: bool,
    /// The pods are ready.
    pub ready: bool,
    /// Every node knows them.
    pub known: bool,
    /// A drain attempt of its own stands.
    pub confirmed: bool,
    /// The DLXs that serve.
    pub serving: world::Dlxs,
    /// None has for long.
    pub dead: bool,
}
