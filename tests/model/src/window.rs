//! When a window is complete: DLXs come, serve, stop, give their last report, leave or die; a leader looks now and then, by the very
//! [`Reports`] that the autoscaler uses, and must never take a resource for idle that a DLX served within its window.
//!
//! A look reads the members and asks all of them in one step: what begins after that is a drain's affair ([`crate::model`]), in
//! which a DLX that waits for its last report is a member that confirms like any other. Time is a number of ticks.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use scaler_types::protocol::{Gap, Reports};

use crate::{canon, explore};

/// The window, in ticks.
const WINDOW: u8 = 2;

/// One fault around [`Reports`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing reports a DLX that came and went between two looks.
    NoWatch,
    /// A DLX gives its last report before its last request has ended.
    ReportsEarly,
    /// A DLX goes on taking requests after its last report.
    ServesOn,
    /// A last report is forgotten when its DLX is gone.
    ForgetsLastReports,
    /// A DLX that is gone without a last report is taken for one that had nothing to report.
    LeftIsIdle,
    /// A new leader believes to know what was before it.
    LeaderKnows,
}

/// What may happen.
#[derive(Clone, Debug)]
pub struct Model {
    /// What is wrong.
    pub fault: Option<Fault>,
    /// DLXs that begin after the first one.
    pub joins: u8,
    /// Requests.
    pub requests: u8,
    /// DLXs that die.
    pub deaths: u8,
    /// Leaders after the first one.
    pub leaders: u8,
    /// The last tick.
    pub end: u8,
}

/// All there is.
#[derive(Clone, Debug, Hash)]
pub struct World {
    now: u8,
    dlx: [Option<Dlx>; 2],
    incarnations: [u8; 2],
    leader: Leader,
    /// The last tick at which a DLX served a request.
    served: Option<u8>,
    /// The last tick at which a DLX left by itself.
    restarted: Option<u8>,
    left: [u8; 4],
}

#[derive(Clone, Debug, Hash)]
struct Dlx {
    name: Arc<str>,
    since: u8,
    in_flight: bool,
    /// The last tick at which a request was in flight here.
    active: Option<u8>,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
enum Phase {
    Serving,
    Stopping,
    /// Its last request has ended.
    Finished,
}

#[derive(Clone, Debug, Default, Hash)]
struct Leader {
    reports: Reports<u8>,
    /// The DLXs that registered since the last look.
    seen: Vec<Arc<str>>,
    /// Last reports: of whom, and when it was last active.
    last: Vec<(Arc<str>, Option<u8>)>,
    /// It has looked in this tick.
    looked: bool,
}

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Action {
    Tick,
    Join { d: usize },
    Begin { d: usize },
    End { d: usize },
    Stop { d: usize },
    Finish { d: usize },
    LastReport { d: usize },
    Leave { d: usize },
    Die { d: usize },
    NewLeader,
    Look,
}

/// Bits of what is worth knowing about a step.
pub mod event {
    /// Taken for idle.
    pub const IDLE: u64 = 1;
    /// Taken for idle although a DLX left, and another began, within the window.
    pub const IDLE_ACROSS_A_RESTART: u64 = 2;
    /// Kept awake for want of a last report.
    pub const KEPT_FOR_ONE_THAT_LEFT: u64 = 4;
    /// Kept awake for want of what was before this leader.
    pub const KEPT_FOR_A_NEW_LEADER: u64 = 8;
    /// A DLX came and went between two looks.
    pub const UNSEEN_BY_LOOKS: u64 = 16;
}

const JOINS: usize = 0;
const REQUESTS: usize = 1;
const DEATHS: usize = 2;
const LEADERS: usize = 3;

// === impl Model ===

impl explore::Model for Model {
    type State = World;
    type Action = Action;

    fn initial(&self) -> World {
        let mut world = World {
            now: 0,
            dlx: [None, None],
            incarnations: [0, 0],
            leader: Leader::default(),
            served: None,
            restarted: None,
            left: [self.joins, self.requests, self.deaths, self.leaders],
        };
        world.dlx[0] = Some(Dlx::new(0, 0, 0));
        world
    }

    fn actions(&self, _: &World, actions: &mut Vec<Action>) {
        actions.extend([Action::Tick, Action::NewLeader, Action::Look]);
        for d in 0..2 {
            actions.extend([
                Action::Join { d },
                Action::Begin { d },
                Action::End { d },
                Action::Stop { d },
                Action::Finish { d },
                Action::LastReport { d },
                Action::Leave { d },
                Action::Die { d },
            ]);
        }
    }

    fn next(&self, world: &World, action: &Action, events: &mut u64) -> Result<Option<World>, String> {
        let mut world = world.clone();
        let done = self.take(&mut world, *action, events)?;
        if world.dlx.iter().flatten().any(|dlx| dlx.in_flight) {
            world.served = Some(world.now);
        }
        Ok(done.then_some(world))
    }

    fn fingerprint(&self, world: &World) -> u64 {
        let mut hasher = DefaultHasher::new();
        world.hash(&mut hasher);
        hasher.finish()
    }

    fn wrong_end(&self, _: &World) -> Option<String> {
        None
    }
}

impl Model {
    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn take(&self, world: &mut World, action: Action, events: &mut u64) -> Result<bool, String> {
        let now = world.now;
        Ok(match action {
            Action::Tick => {
                world.leader.looked = false;
                world.now += 1;
                for dlx in world.dlx.iter_mut().flatten().filter(|dlx| dlx.in_flight) {
                    dlx.active = Some(world.now);
                }
                world.now <= self.end
            }
            Action::Join { d } => {
                if world.dlx[d].is_some() || !spend(&mut world.left[JOINS]) {
                    return Ok(false);
                }
                world.incarnations[d] += 1;
                let dlx = Dlx::new(d, world.incarnations[d], now);
                if !self.has(Fault::NoWatch) {
                    world.leader.seen.push(dlx.name.clone());
                }
                world.dlx[d] = Some(dlx);
                true
            }
            Action::Begin { d } => {
                let takes = |dlx: &&mut Dlx| {
                    !dlx.in_flight && (dlx.phase != Phase::Finished || self.has(Fault::ServesOn))
                };
                let Some(dlx) = world.dlx[d].as_mut().filter(takes) else { return Ok(false) };
                (dlx.in_flight, dlx.active) = (true, Some(now));
                spend(&mut world.left[REQUESTS])
            }
            Action::End { d } => {
                world.dlx[d].as_mut().is_some_and(|dlx| std::mem::replace(&mut dlx.in_flight, false))
            }
            Action::Stop { d } => Dlx::enters(&mut world.dlx[d], Phase::Serving, Phase::Stopping),
            Action::Finish { d } => {
                let idle = world.dlx[d].as_ref().is_some_and(|dlx| !dlx.in_flight);
                idle && Dlx::enters(&mut world.dlx[d], Phase::Stopping, Phase::Finished)
            }
            Action::LastReport { d } => {
                let Some(dlx) = &world.dlx[d] else { return Ok(false) };
                let early = self.has(Fault::ReportsEarly) && dlx.phase == Phase::Stopping;
                if dlx.phase != Phase::Finished && !early || world.leader.reported(&dlx.name) {
                    return Ok(false);
                }
                world.leader.last.push((dlx.name.clone(), dlx.active));
                true
            }
            // Asked, or not in time.
            Action::Leave { d } => {
                let over = |dlx: &Dlx| dlx.phase == Phase::Finished && !dlx.in_flight;
                if !world.dlx[d].as_ref().is_some_and(over) {
                    return Ok(false);
                }
                gone(world, d, events);
                world.restarted = Some(now);
                true
            }
            Action::Die { d } => {
                if world.dlx[d].is_none() || !spend(&mut world.left[DEATHS]) {
                    return Ok(false);
                }
                gone(world, d, events);
                true
            }
            Action::NewLeader => {
                world.leader = Leader::default();
                spend(&mut world.left[LEADERS])
            }
            Action::Look => return self.look(world, events),
        })
    }

    fn look(&self, world: &mut World, events: &mut u64) -> Result<bool, String> {
        if std::mem::replace(&mut world.leader.looked, true) {
            return Ok(false);
        }
        let now = world.now;
        let live: BTreeSet<_> = world.dlx.iter().flatten().map(|dlx| dlx.name.clone()).collect();
        let World { leader, dlx: dlxs, served, restarted, .. } = world;
        let Leader { reports, seen, last, .. } = leader;
        if self.has(Fault::LeaderKnows) && reports.complete_since().is_none() {
            reports.read(0, live.clone(), [], |_| true);
        }
        let believes = self.has(Fault::LeftIsIdle);
        let reported = |name: &str| believes || last.iter().any(|(last, _)| &**last == name);
        reports.read(now, live, std::mem::take(seen), reported);
        let (since, gap) = match reports.complete_since() {
            Some((since, gap)) => (since, gap.clone()),
            None => return Ok(true),
        };
        // What is older than a window is not looked at any more.
        last.retain(|(_, active)| active.is_some_and(|active| now - active < WINDOW) || now < WINDOW);
        let leader = &*leader;
        let lasts =
            leader.last.iter().filter(|_| !self.has(Fault::ForgetsLastReports)).map(|(_, active)| *active);
        let lives = dlxs.iter().flatten().filter(|dlx| !leader.reported(&dlx.name));
        let mut busy = lives.map(|dlx| if dlx.in_flight { Some(now) } else { dlx.active }).chain(lasts);
        if busy.any(|active| active.is_some_and(|active| now - active < WINDOW)) {
            return Ok(true);
        }
        if now - since < WINDOW {
            *events |= match gap {
                Gap::NewLeader => event::KEPT_FOR_A_NEW_LEADER,
                Gap::Left(_) | Gap::Unseen => event::KEPT_FOR_ONE_THAT_LEFT,
            };
            return Ok(true);
        }
        *events |= event::IDLE;
        let began = dlxs.iter().flatten().any(|dlx| dlx.since > 0 && now - dlx.since < WINDOW);
        if began && restarted.is_some_and(|left| now - left < WINDOW) {
            *events |= event::IDLE_ACROSS_A_RESTART;
        }
        match *served {
            Some(served) if now - served < WINDOW => {
                Err("taken for idle although a request was served within the window".into())
            }
            _ => Ok(true),
        }
    }
}

fn gone(world: &mut World, d: usize, events: &mut u64) {
    if let Some(dlx) = world.dlx[d].take()
        && world.leader.seen.contains(&dlx.name)
    {
        *events |= event::UNSEEN_BY_LOOKS;
    }
}

fn spend(left: &mut u8) -> bool {
    left.checked_sub(1).map(|less| *left = less).is_some()
}

// === impl Leader ===

impl Leader {
    fn reported(&self, name: &str) -> bool {
        self.last.iter().any(|(last, _)| &**last == name)
    }
}

// === impl Dlx ===

impl Dlx {
    fn new(place: usize, number: u8, since: u8) -> Self {
        let name = canon::member(place, number).into();
        Self { name, since, in_flight: false, active: None, phase: Phase::Serving }
    }

    fn enters(dlx: &mut Option<Self>, from: Phase, to: Phase) -> bool {
        let dlx = dlx.as_mut().filter(|dlx| dlx.phase == from);
        dlx.map(|dlx| dlx.phase = to).is_some()
    }
}
