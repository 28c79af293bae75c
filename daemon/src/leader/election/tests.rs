//! Several candidates and one Lease, in a time of the test's own: calls take long and get lost on the way there or back,
//! processes stop and go on, watches stall, clocks run apart and start anywhere.

use std::{cmp::Reverse, collections::BinaryHeap};

use k8s_openapi::jiff::Timestamp;

use super::*;

/// Milliseconds of the true time, which no candidate knows.
type At = u64;

/// How long a candidate waits for an answer, as the client does.
const PATIENCE: u64 = 5_000;
/// When faults end.
const QUIET: At = 200_000;
/// When the test does.
const END: At = QUIET + 60_000;

struct World {
    random: u64,
    now: At,
    start: Instant,
    events: BinaryHeap<Reverse<(At, u64, usize, Event)>>,
    count: u64,
    /// The Lease and its version; 0: there is none.
    lease: Option<LeaseSpec>,
    version: u64,
    outage: std::ops::Range<At>,
    candidates: Vec<Candidate>,
}

struct Candidate {
    election: Election,
    /// This one's clock: where it starts, and how fast it runs, in per mille.
    offset: u64,
    rate: u64,
    /// The number of the call or wait that is under way; an answer to another one comes too late.
    doing: u64,
    watching: bool,
    /// What it knows the Lease as.
    knows: u64,
    stopped_until: At,
    was_leader: bool,
    calls: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// Look what is to be done.
    Go(u64),
    /// A request reaches the server.
    Arrives(u64, Call),
    /// An answer reaches the candidate.
    Answered(u64, Answer),
    /// A watch shows the Lease as it was when it was written, and its version.
    Changed(Told, u64),
}

/// Holder, duration, transitions, and which renewal it is.
type Told = (String, i32, i32, u64);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Call {
    Read,
    /// On this version; by whom it is held then, and when that was begun by the caller's clock.
    Write {
        expected: u64,
        holder: String,
        lasts: i32,
        transitions: i32,
        began: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    Is(Option<Told>, u64),
    Written { holder: String, lasts: i32, transitions: i32, began: u64, stamp: u64, version: u64 },
    Conflict,
    None,
}

impl World {
    fn new(seed: u64, candidates: usize) -> Self {
        let mut world = Self {
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            now: 0,
            start: Instant::now(),
            events: BinaryHeap::new(),
            count: 0,
            lease: None,
            version: 0,
            outage: 0..0,
            candidates: Vec::new(),
        };
        let from = world.up_to(QUIET);
        world.outage = from..from + world.up_to(60_000).min(QUIET - from);
        for number in 0..candidates {
            let election = Election::new(format!("candidate-{number}"), Timing::default());
            let (offset, rate) = (world.up_to(1_000_000), 900 + world.up_to(200));
            world.candidates.push(Candidate {
                election,
                offset,
                rate,
                doing: 0,
                watching: false,
                knows: 0,
                stopped_until: 0,
                was_leader: false,
                calls: 0,
            });
            let begins = world.up_to(30_000);
            world.at(begins, number, Event::Go(0));
        }
        world
    }

    fn up_to(&mut self, limit: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % limit.max(1)
    }

    fn at(&mut self, time: At, who: usize, event: Event) {
        self.count += 1;
        self.events.push(Reverse((time, self.count, who, event)));
    }

    fn clock(&self, who: usize) -> Instant {
        let one = &self.candidates[who];
        self.start + Duration::from_millis(one.offset + self.now * one.rate / 1000)
    }

    /// When a candidate's clock shows that.
    fn true_time(&self, who: usize, instant: Instant) -> At {
        let one = &self.candidates[who];
        let shown = u64::try_from((instant - self.start).as_millis()).unwrap() + 1;
        (shown.saturating_sub(one.offset) * 1000).div_ceil(one.rate).max(self.now)
    }

    /// Some faults, while they last.
    fn delay(&mut self) -> u64 {
        match self.up_to(20) {
            0 if self.now < QUIET => self.up_to(20_000),
            1 if self.now < QUIET => self.up_to(4_000),
            _ => 1 + self.up_to(20),
        }
    }

    fn lost(&mut self) -> bool {
        self.outage.contains(&self.now) || self.now < QUIET && self.up_to(25) == 0
    }

    fn run(&mut self, until: At) {
        while let Some(Reverse((time, _, who, event))) = self.events.pop() {
            if time > until {
                self.at(time, who, event);
                return;
            }
            self.now = time;
            if let Event::Arrives(number, call) = event {
                self.serve(who, number, call);
            } else if time < self.candidates[who].stopped_until {
                let later = self.candidates[who].stopped_until;
                self.at(later, who, event);
            } else {
                self.candidate(who, event);
            }
            self.at_most_one_leads();
        }
    }

    fn serve(&mut self, who: usize, number: u64, call: Call) {
        let answer = match call {
            Call::Read => {
                let spec = self.lease.as_ref().map(|spec| {
                    let stamp = stamp_of(spec);
                    (
                        spec.holder_identity.clone().unwrap_or_default(),
                        spec.lease_duration_seconds.unwrap(),
                        spec.lease_transitions.unwrap(),
                        stamp,
                    )
                });
                Answer::Is(spec, self.version)
            }
            Call::Write { expected, .. } if expected != self.version => Answer::Conflict,
            Call::Write { holder, lasts, transitions, began, .. } => {
                self.version += 1;
                let stamp = self.version;
                self.lease = Some(lease(&holder, lasts, transitions, stamp));
                for other in 0..self.candidates.len() {
                    // Watches stall now and then.
                    if self.candidates[other].watching && !self.lost() {
                        let delay = self.delay();
                        let spec = (holder.clone(), lasts, transitions, stamp);
                        self.at(self.now + delay, other, Event::Changed(spec, self.version));
                    }
                }
                Answer::Written { holder, lasts, transitions, began, stamp, version: self.version }
            }
        };
        if !self.lost() {
            let delay = self.delay();
            self.at(self.now + delay, who, Event::Answered(number, answer));
        }
    }

    fn candidate(&mut self, who: usize, event: Event) {
        if self.now < QUIET && self.up_to(60) == 0 {
            let pause = self.up_to(40_000);
            self.candidates[who].stopped_until = self.now + pause;
        }
        let now = self.clock(who);
        let one = &mut self.candidates[who];
        match event {
            Event::Go(number) if number != one.doing => return,
            Event::Go(_) => {}
            Event::Answered(number, _) if number != one.doing => return,
            Event::Answered(_, Answer::None) => one.election.failed(now),
            Event::Answered(_, Answer::Conflict) => one.election.conflict(now),
            Event::Answered(_, Answer::Is(spec, version)) => {
                one.knows = version;
                let spec =
                    spec.map(|(holder, lasts, transitions, stamp)| lease(&holder, lasts, transitions, stamp));
                one.election.observe(now, spec);
            }
            Event::Answered(_, Answer::Written { holder, lasts, transitions, began, stamp, version }) => {
                one.knows = version;
                let began = self.start + Duration::from_millis(began);
                one.election.wrote(began, now, lease(&holder, lasts, transitions, stamp));
            }
            // Watches show changes in their order.
            Event::Changed(_, version) if !one.watching || version <= one.knows => return,
            Event::Changed((holder, lasts, transitions, stamp), version) => {
                one.knows = version;
                one.election.observe(now, Some(lease(&holder, lasts, transitions, stamp)));
            }
            Event::Arrives(..) => unreachable!(),
        }
        if one.was_leader && one.election.leads_until(now).is_none() {
            // As the client does: it begins anew, with nothing known.
            one.election = Election::new(format!("candidate-{who}"), Timing::default());
        }
        one.was_leader = one.election.leads_until(now).is_some();
        self.go_on(who, now);
    }

    /// Does what the candidate is ordered to.
    fn go_on(&mut self, who: usize, now: Instant) {
        self.count += 1;
        let number = self.count;
        let one = &mut self.candidates[who];
        one.doing = number;
        one.watching = false;
        let expected = one.knows;
        let call = match one.election.next(now, &stamp(0)) {
            Order::Wait(until, watching) => {
                assert!(until > now);
                one.watching = watching == Watching::Yes;
                let until = self.true_time(who, until);
                return self.at(until, who, Event::Go(number));
            }
            Order::Read => Call::Read,
            Order::Write(spec) => Call::Write {
                expected,
                holder: spec.holder_identity.unwrap(),
                lasts: spec.lease_duration_seconds.unwrap(),
                transitions: spec.lease_transitions.unwrap(),
                began: u64::try_from((now - self.start).as_millis()).unwrap(),
            },
        };
        self.candidates[who].calls += 1;
        // A leader stops waiting when it leads no more.
        let until = self.candidates[who].election.leads_until(now);
        let patience = until.map_or(PATIENCE, |until| self.true_time(who, until) - self.now).min(PATIENCE);
        self.at(self.now + patience, who, Event::Answered(number, Answer::None));
        if !self.lost() {
            let delay = self.delay();
            self.at(self.now + delay, who, Event::Arrives(number, call));
        }
    }

    fn leaders(&self) -> Vec<usize> {
        let leads = |who: &usize| self.candidates[*who].election.leads_until(self.clock(*who)).is_some();
        (0..self.candidates.len()).filter(leads).collect()
    }

    fn at_most_one_leads(&mut self) {
        let leaders = self.leaders();
        assert!(leaders.len() < 2, "{leaders:?} lead at {}", self.now);
    }
}

fn stamp(number: u64) -> MicroTime {
    MicroTime(Timestamp::from_second(i64::try_from(number).unwrap()).unwrap())
}

fn stamp_of(spec: &LeaseSpec) -> u64 {
    u64::try_from(spec.renew_time.as_ref().unwrap().0.as_second()).unwrap()
}

fn lease(holder: &str, lasts: i32, transitions: i32, renewed: u64) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(holder.to_owned()),
        lease_duration_seconds: Some(lasts),
        lease_transitions: Some(transitions),
        renew_time: Some(stamp(renewed)),
        ..LeaseSpec::default()
    }
}

#[test]
fn there_are_never_two_leaders_and_one_once_nothing_fails() {
    let (mut terms, mut seeds) = (0, 0);
    for seed in 1..=2_000 {
        let mut world = World::new(seed, 3);
        world.run(END);
        assert_eq!(world.leaders().len(), 1, "seed {seed}: nobody leads a minute after the last fault");
        terms += world.lease.unwrap().lease_transitions.unwrap();
        seeds += 1;
    }
    // The faults are such that leaders do change.
    assert!(terms > seeds, "{terms} changes of the leader in {seeds} runs");
}

#[test]
fn a_standby_makes_no_calls() {
    let mut world = World::new(7, 2);
    world.run(END - 30_000);
    let leader = world.leaders()[0];
    let before = [world.candidates[0].calls, world.candidates[1].calls];
    world.run(END);
    let calls = |who: usize| world.candidates[who].calls - before[who];
    assert!((5..=7).contains(&calls(leader)), "30 s, a renewal each 5 s: {}", calls(leader));
    assert_eq!(calls(1 - leader), 0);
}

#[test]
fn a_lease_given_up_is_taken_at_once() {
    let now = Instant::now();
    let mut leader = Election::new("a".to_owned(), Timing::default());
    let mut next = Election::new("b".to_owned(), Timing::default());
    leader.observe(now, None);
    let Order::Write(spec) = leader.next(now, &stamp(1)) else { panic!("there is no Lease") };
    assert_eq!(spec.lease_transitions, Some(0));
    leader.wrote(now, now, spec.clone());
    next.observe(now, Some(spec));
    assert!(matches!(next.next(now, &stamp(2)), Order::Wait(_, Watching::Yes)));
    next.observe(now, leader.given_up(&stamp(3)));
    let Order::Write(spec) = next.next(now, &stamp(4)) else { panic!("nobody holds it") };
    assert_eq!(spec.lease_transitions, Some(1));
    assert_eq!(spec.acquire_time, Some(stamp(4)));
    assert_eq!(next.given_up(&stamp(5)), None, "not before it is its own");
}

#[test]
fn a_leader_that_loses_the_lease_is_a_standby() {
    let now = Instant::now();
    let mut election = Election::new("a".to_owned(), Timing::default());
    election.observe(now, None);
    let Order::Write(mine) = election.next(now, &stamp(1)) else { panic!("there is no Lease") };
    election.wrote(now, now, mine);
    assert!(election.leads_until(now).is_some());
    election.conflict(now);
    assert_eq!(election.next(now, &stamp(2)), Order::Read);
    election.observe(now, Some(lease("b", 15, 1, 2)));
    assert_eq!(election.leads_until(now), None);
}

#[test]
fn a_longer_lease_of_another_build_is_waited_for_and_a_senseless_one_is_not_believed() {
    let now = Instant::now();
    let mut election = Election::new("a".to_owned(), Timing::default());
    election.observe(now, Some(lease("b", 60, 0, 1)));
    assert_eq!(election.next(now, &stamp(1)), Order::Wait(now + Duration::from_secs(60), Watching::Yes));
    election.observe(now, Some(lease("b", -3, 0, 1)));
    assert_eq!(election.next(now, &stamp(1)), Order::Wait(now + Duration::from_secs(15), Watching::Yes));
}
