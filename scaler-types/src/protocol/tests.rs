//! Tables of every transition and recovery, and the steps of gate and drain that the daemons rely on.

use std::collections::BTreeSet;

use super::*;
use crate::Phase::{self, Active, Asleep, Draining, Failed, Waking};

const STATES: [Phase; 5] = [Active, Draining, Asleep, Waking, Failed];
const OLD: Nonce = Nonce(1);
const FRESH: Nonce = Nonce(2);

fn record(state: Phase, nonce: Nonce) -> Record {
    Record { phase: state, nonce, ..Record::default() }
}

fn version(number: u32) -> Version {
    Version(number.to_string())
}

fn seen(state: Phase, number: u32, scaled: bool) -> Seen {
    Seen { record: record(state, OLD), version: version(number), scaled }
}

/// `got` for each state, without replicas and with.
fn cells(got: impl Fn(&Seen) -> Option<Record>) -> Vec<[Option<Phase>; 2]> {
    let cell = |state, scaled| {
        got(&seen(state, 1, scaled)).map(|record| {
            assert_eq!(record.nonce, FRESH, "every change has a nonce of its own");
            assert!(!record.reason.is_empty(), "every change says why");
            record.phase
        })
    };
    STATES.map(|state| [cell(state, false), cell(state, true)]).into()
}

#[test]
fn every_transition() {
    let no = None;
    // Without replicas and with, for: active, draining, asleep, waking, failed.
    let table = [
        (Step::Drain, [[no, Some(Draining)], [no, no], [no, no], [no, no], [no, Some(Draining)]]),
        (Step::Revert, [[no, no], [Some(Active), Some(Active)], [no, no], [no, no], [no, no]]),
        (Step::Commit, [[no, no], [Some(Asleep), Some(Asleep)], [no, no], [no, no], [no, no]]),
        (
            Step::Wake,
            [
                [Some(Waking), no],
                [Some(Waking), no],
                [Some(Waking), Some(Waking)],
                [Some(Waking), no],
                [Some(Waking), Some(Waking)],
            ],
        ),
        (Step::Finish, [[no, no], [no, no], [no, Some(Active)], [Some(Active), Some(Active)], [no, no]]),
        (
            Step::Fail,
            [
                [Some(Failed), no],
                [no, no],
                [Some(Failed), Some(Failed)],
                [Some(Failed), Some(Failed)],
                [no, no],
            ],
        ),
        (
            Step::WakeByLeader,
            [
                [Some(Active), no],
                [no, no],
                [Some(Active), Some(Active)],
                [no, no],
                [Some(Active), Some(Active)],
            ],
        ),
    ];
    for (step, expected) in table {
        assert_eq!(cells(|seen| transition(seen, step, FRESH, "why")), expected, "{step:?}");
        let newer = |seen: &Seen| Seen {
            record: Record { format: Record::FORMAT + 1, ..seen.record.clone() },
            ..seen.clone()
        };
        let left_alone = cells(|seen| transition(&newer(seen), step, FRESH, "why"));
        assert_eq!(left_alone, [[no, no]; 5], "{step:?} of a record of a newer format");
    }
}

#[test]
fn a_resize_has_a_nonce_of_its_own_while_active_and_leaves_a_wake_alone() {
    for phase in STATES {
        let resized = |scaled| transition(&seen(phase, 1, scaled), Step::Resize, FRESH, "5 messages");
        let expected = match phase {
            Active => Some(Record { reason: "5 messages".to_owned(), ..record(Active, FRESH) }),
            Waking => Some(record(Waking, OLD)),
            Draining | Asleep | Failed => None,
        };
        assert_eq!(resized(true), expected, "{phase}");
        assert_eq!(resized(false), None, "{phase} without replicas");
        let mut later = seen(phase, 1, true);
        later.record.format = Record::FORMAT + 1;
        assert_eq!(transition(&later, Step::Resize, FRESH, "5 messages"), None, "{phase} of a later format");
    }
}

#[test]
fn a_wake_by_the_leader_leaves_nothing_to_recover() {
    for (phase, scaled) in [(Asleep, false), (Failed, false), (Failed, true), (Active, false)] {
        let mut now = seen(phase, 1, scaled);
        now.record = transition(&now, Step::WakeByLeader, FRESH, "5 messages").unwrap();
        for scaled in [true, false] {
            now.scaled = scaled;
            for wake in [WakeSeen::InTime, WakeSeen::Ready, WakeSeen::NotReady("no node"), WakeSeen::Unknown]
            {
                assert_eq!(recover(&now, false, wake, Nonce(3)), None, "{phase}, {scaled}, {wake:?}");
            }
        }
    }
}

#[test]
fn every_recovery() {
    let no = None;
    let fence_reverted = [Some(Active), Some(Active)];
    let up_by_hand = [no, Some(Active)];
    let (failed, up) = ([Some(Failed), Some(Failed)], [Some(Failed), Some(Active)]);
    let table = [
        (WakeSeen::InTime, [no, no]),
        (WakeSeen::Ready, up),
        (WakeSeen::Unknown, up),
        (WakeSeen::NotReady("no node"), failed),
    ];
    for (wake, waking) in table {
        for (mine, draining) in [(false, fence_reverted), (true, [no, no])] {
            let got = cells(|seen| recover(seen, mine, wake, FRESH));
            assert_eq!(got, [[no, no], draining, up_by_hand, waking, [no, no]], "mine: {mine}, {wake:?}");
        }
    }
}

#[test]
fn why_a_wake_failed_is_kept_until_one_succeeds() {
    let mut now = seen(Waking, 1, true);
    let mut go = |step| {
        now.record = transition(&now, step, FRESH, "no such image").unwrap();
        now.record.failed_wake.clone()
    };
    assert_eq!(go(Step::Fail), "no such image");
    for step in [Step::Drain, Step::Revert, Step::Resize, Step::Drain, Step::Commit, Step::Wake] {
        assert_eq!(go(step), "no such image", "{step:?}");
    }
    assert_eq!(go(Step::Finish), "");
    // The leader's wake has no end of its own.
    let mut failed = seen(Failed, 1, false);
    failed.record.failed_wake = "no such image".to_owned();
    assert_eq!(transition(&failed, Step::WakeByLeader, FRESH, "5 messages").unwrap().failed_wake, "");
    // Nobody knows whether it is up.
    let left = |state, scaled, wake| {
        let mut seen = seen(state, 1, scaled);
        seen.record.failed_wake = "no such image".to_owned();
        recover(&seen, false, wake, FRESH).unwrap().failed_wake
    };
    assert_eq!(left(Asleep, true, WakeSeen::InTime), "no such image");
    assert_eq!(left(Waking, true, WakeSeen::Unknown), "no such image");
    assert_eq!(left(Waking, true, WakeSeen::Ready), "");
    assert_eq!(left(Waking, true, WakeSeen::NotReady("no node")), "no node");
}

// The gate.

fn gate(seen: Seen) -> Gate {
    let mut gate = Gate::new(Rules::default());
    assert_eq!(gate.step(GateInput::Saw(Some(seen))), GateOrder::Nothing);
    gate
}

fn wanted() -> GateInput {
    GateInput::Wanted { fresh: FRESH }
}

fn wrote(expected: u32, state: Phase, result: Result<Version, Unwritten>) -> GateInput {
    GateInput::Wrote { expected: version(expected), record: record(state, FRESH), result }
}

fn asked(nonce: Nonce, in_flight: u64, held: u64) -> GateInput {
    GateInput::Asked { nonce, in_flight, held }
}

#[test]
fn a_gate_is_open_only_where_something_runs_and_nobody_fences() {
    assert!(!Gate::new(Rules::default()).open(), "it knows nothing yet");
    for state in STATES {
        assert!(!gate(seen(state, 1, false)).open(), "{state} without replicas");
        let open = matches!(state, Active | Waking);
        assert_eq!(gate(seen(state, 1, true)).open(), open, "{state} with replicas");
    }
}

/// A later version may keep the replicas of what is asleep.
#[test]
fn a_gate_forwards_by_replicas_in_a_later_format_unless_it_is_asleep() {
    for phase in STATES {
        for scaled in [false, true] {
            let mut later = seen(phase, 1, scaled);
            later.record.format = Record::FORMAT + 1;
            assert_eq!(gate(later).open(), scaled && phase != Asleep, "{phase}, scaled: {scaled}");
        }
    }
}

#[test]
fn a_request_orders_what_the_state_wants() {
    assert_eq!(Gate::new(Rules::default()).step(wanted()), GateOrder::Refresh);
    for state in STATES {
        for scaled in [false, true] {
            let order = gate(seen(state, 7, scaled)).step(wanted());
            let fits = match (state, scaled) {
                (Active | Waking, true) => order == GateOrder::Nothing,
                (Draining, true) => {
                    matches!(&order, GateOrder::Write { expected, record } if *expected == version(7) && record.phase == Active)
                }
                _ => {
                    matches!(&order, GateOrder::Wake { expected, record } if *expected == version(7) && record.phase == Waking)
                }
            };
            assert!(fits, "{state}, scaled: {scaled}: {order:?}");
        }
    }
}

#[test]
fn a_gate_writes_and_wakes_one_at_a_time() {
    let mut reverting = gate(seen(Draining, 1, true));
    assert!(matches!(reverting.step(wanted()), GateOrder::Write { .. }));
    assert_eq!(reverting.step(wanted()), GateOrder::Nothing);
    let mut waking = gate(seen(Asleep, 1, false));
    assert!(matches!(waking.step(wanted()), GateOrder::Wake { .. }));
    assert!(waking.waking());
    assert_eq!(waking.step(wanted()), GateOrder::Nothing);
    waking.step(GateInput::Woke { terminal: None, fresh: FRESH });
    assert!(!waking.waking());
    assert!(matches!(waking.step(wanted()), GateOrder::Wake { .. }), "the view still shows it asleep");
}

#[test]
fn a_revert_opens_the_gate_only_once_it_is_written() {
    let mut gate = gate(seen(Draining, 1, true));
    gate.step(wanted());
    assert!(!gate.open(), "on its way");
    assert_eq!(gate.step(wrote(1, Active, Err(Unwritten::Unknown))), GateOrder::Nothing);
    assert!(!gate.open(), "nobody knows");
    gate.step(wanted());
    assert_eq!(gate.step(wrote(1, Active, Err(Unwritten::Conflict))), GateOrder::Refresh);
    assert!(!gate.open(), "somebody else was faster");
    gate.step(wanted());
    gate.step(wrote(1, Active, Ok(version(2))));
    assert!(gate.open());
    // What it replaced is still on its way in the stream.
    gate.step(GateInput::Saw(Some(seen(Draining, 1, true))));
    assert!(gate.open(), "the stream is behind");
    gate.step(GateInput::Saw(Some(seen(Draining, 3, true))));
    assert!(!gate.open(), "the next drain attempt");
}

#[test]
fn an_own_write_does_not_replace_what_was_seen_since() {
    let mut gate = gate(seen(Draining, 1, true));
    gate.step(wanted());
    gate.step(GateInput::Saw(Some(seen(Draining, 3, true))));
    gate.step(wrote(1, Active, Ok(version(2))));
    assert!(!gate.open(), "a drain attempt newer than the own write stands");
    assert_eq!(gate.seen().map(|seen| &seen.version), Some(&version(3)));
}

#[test]
fn a_fence_is_confirmed_by_who_sees_it_and_has_nothing() {
    let refuse = GateOrder::Refuse;
    assert_eq!(Gate::new(Rules::default()).step(asked(OLD, 0, 0)), refuse(Refusal::NotSeen));
    for state in STATES {
        let expected = if state == Draining { GateOrder::Confirm } else { refuse(Refusal::NotSeen) };
        assert_eq!(gate(seen(state, 1, true)).step(asked(OLD, 0, 0)), expected, "{state}");
    }
    let mut gate = gate(seen(Draining, 1, true));
    assert_eq!(gate.step(asked(FRESH, 0, 0)), refuse(Refusal::NotSeen), "another nonce");
    assert_eq!(gate.step(asked(OLD, 2, 1)), refuse(Refusal::InFlight(2)));
    assert_eq!(gate.step(asked(OLD, 0, 1)), refuse(Refusal::Held(1)));
}

#[test]
fn a_wake_is_finished_when_it_answers_and_failed_when_it_cannot() {
    let answers = GateInput::Answers { fresh: FRESH };
    let finish = gate(seen(Waking, 1, true)).step(answers.clone());
    assert!(matches!(finish, GateOrder::Write { record, .. } if record.phase == Active));
    assert_eq!(gate(seen(Active, 1, true)).step(answers.clone()), GateOrder::Nothing);
    assert_eq!(gate(seen(Waking, 1, false)).step(answers), GateOrder::Nothing);
    let terminal = GateInput::Woke { terminal: Some("no such program".into()), fresh: FRESH };
    let fail = gate(seen(Waking, 1, true)).step(terminal);
    assert!(
        matches!(fail, GateOrder::Write { record, .. } if record.phase == Failed && record.reason == "no such program")
    );
}

#[test]
fn a_resource_that_is_gone_shuts_the_gate() {
    let mut gate = gate(seen(Active, 1, true));
    gate.step(GateInput::Saw(None));
    assert!(!gate.open());
    assert_eq!(gate.step(wanted()), GateOrder::Refresh);
}

// The drain attempt.

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

/// A drain attempt whose `draining` was written as version 2.
fn drain() -> Drain {
    let (mut drain, order) = Drain::begin(Rules::default(), seen(Active, 1, true), FRESH, "idle").unwrap();
    assert!(
        matches!(order, DrainOrder::Write { expected, record } if expected == version(1) && record.phase == Draining && record.nonce == FRESH)
    );
    assert_eq!(drain.step(DrainInput::Wrote(Ok(version(2)))), DrainOrder::ReadMembers);
    drain
}

/// The same, with these members asked.
fn asking(members: &[&str]) -> Drain {
    let mut drain = drain();
    let order = drain.step(DrainInput::Members { members: names(members), fresh: Nonce(3) });
    assert_eq!(order, DrainOrder::Ask { members: names(members), nonce: FRESH });
    drain
}

fn reverts(order: &DrainOrder) -> bool {
    matches!(order, DrainOrder::Write { expected, record } if *expected == version(2) && record.phase == Active && record.nonce == Nonce(3))
}

#[test]
fn a_fence_begins_only_where_there_is_something_to_put_to_zero() {
    for state in STATES {
        for scaled in [false, true] {
            let begun = Drain::begin(Rules::default(), seen(state, 1, scaled), FRESH, "idle").is_some();
            assert_eq!(begun, matches!(state, Active | Failed) && scaled, "{state}, scaled: {scaled}");
        }
    }
}

#[test]
fn a_commit_waits_for_every_member_and_stands_on_the_fences_own_version() {
    let mut drain = asking(&["a", "b"]);
    assert_eq!(drain.step(DrainInput::Confirmed("a".into())), DrainOrder::Nothing);
    assert_eq!(drain.step(DrainInput::Confirmed("a".into())), DrainOrder::Nothing, "the same one again");
    assert_eq!(drain.step(DrainInput::Confirmed("stranger".into())), DrainOrder::Nothing);
    let order = drain.step(DrainInput::Confirmed("b".into()));
    assert!(
        matches!(order, DrainOrder::Commit { expected, record } if expected == version(2) && record.phase == Asleep && record.nonce == FRESH)
    );
    let late = DrainInput::Refused { fresh: Nonce(4) };
    assert_eq!(drain.step(late), DrainOrder::Nothing, "decided already");
    assert_eq!(drain.step(scaled(Ok(()))), DrainOrder::End(Outcome::Asleep));
}

fn scaled(result: Result<(), Unwritten>) -> DrainInput {
    DrainInput::Scaled { result, fresh: Nonce(5) }
}

#[test]
fn a_commit_that_finds_another_version_is_the_tries_end() {
    let mut drain = asking(&["a"]);
    drain.step(DrainInput::Confirmed("a".into()));
    assert_eq!(drain.step(scaled(Err(Unwritten::Conflict))), DrainOrder::End(Outcome::Reverted));
}

/// It may have been refused, and nothing else would revert it soon. If it took effect the revert finds another version.
#[test]
fn a_commit_that_is_refused_or_unknown_is_reverted_on_the_drains_own_version() {
    for written in [Ok(version(3)), Err(Unwritten::Conflict), Err(Unwritten::Unknown)] {
        let mut drain = asking(&["a"]);
        drain.step(DrainInput::Confirmed("a".into()));
        let order = drain.step(scaled(Err(Unwritten::Unknown)));
        assert!(
            matches!(&order, DrainOrder::Write { expected, record } if *expected == version(2) && record.phase == Active && record.nonce == Nonce(5)),
            "{order:?}"
        );
        assert_eq!(
            drain.step(DrainInput::Wrote(written.clone())),
            DrainOrder::End(Outcome::Unknown),
            "{written:?}"
        );
    }
}

#[test]
fn one_refusal_reverts_at_once() {
    let mut drain = asking(&["a", "b"]);
    assert!(reverts(&drain.step(DrainInput::Refused { fresh: Nonce(3) })));
    assert_eq!(drain.step(DrainInput::Confirmed("b".into())), DrainOrder::Nothing, "too late");
    assert_eq!(drain.step(DrainInput::Wrote(Ok(version(3)))), DrainOrder::End(Outcome::Reverted));
}

#[test]
fn without_requests_no_member_has_to_confirm_and_each_that_there_is_does() {
    let mut alone = drain().without_requests();
    let order = alone.step(DrainInput::Members { members: names(&[]), fresh: Nonce(3) });
    assert!(matches!(order, DrainOrder::Commit { expected, .. } if expected == version(2)));
    let mut asked = drain().without_requests();
    let order = asked.step(DrainInput::Members { members: names(&["a"]), fresh: Nonce(3) });
    assert!(matches!(order, DrainOrder::Ask { .. }));
    assert!(reverts(&asked.step(DrainInput::Refused { fresh: Nonce(3) })));
    let mut unlisted = drain().without_requests();
    assert!(reverts(&unlisted.step(DrainInput::Refused { fresh: Nonce(3) })), "the members cannot be listed");
}

#[test]
fn without_a_member_it_stays_awake() {
    let mut drain = drain();
    assert!(reverts(&drain.step(DrainInput::Members { members: names(&[]), fresh: Nonce(3) })));
}

#[test]
fn a_fence_that_could_not_be_written_is_over() {
    let table = [(Unwritten::Conflict, Outcome::Reverted), (Unwritten::Unknown, Outcome::Unknown)];
    for (why, outcome) in table {
        let (mut drain, _) = Drain::begin(Rules::default(), seen(Active, 1, true), FRESH, "idle").unwrap();
        assert_eq!(drain.step(DrainInput::Wrote(Err(why))), DrainOrder::End(outcome), "{why:?}");
    }
}

#[test]
fn on_path_direct_the_route_is_switched_between_the_last_confirmation_and_the_commit() {
    let switching = || {
        let mut drain = asking(&["a"]).switching();
        assert_eq!(drain.step(DrainInput::Confirmed("a".into())), DrainOrder::Switch);
        drain
    };
    let mut drain = switching();
    assert_eq!(drain.step(DrainInput::Confirmed("a".into())), DrainOrder::Nothing, "a late answer");
    let order = drain.step(DrainInput::Switched { idle: true, fresh: Nonce(3) });
    assert!(
        matches!(order, DrainOrder::Commit { expected, record } if expected == version(2) && record.nonce == FRESH)
    );
    assert!(reverts(&switching().step(DrainInput::Switched { idle: false, fresh: Nonce(3) })));
    let rules = Rules { switch_before_commit: false, ..Rules::default() };
    let (drain, _) = Drain::begin(rules, seen(Active, 1, true), FRESH, "idle").unwrap();
    let mut drain = drain.switching();
    drain.step(DrainInput::Wrote(Ok(version(2))));
    drain.step(DrainInput::Members { members: names(&["a"]), fresh: Nonce(3) });
    let order = drain.step(DrainInput::Confirmed("a".into()));
    assert!(matches!(order, DrainOrder::Commit { .. }), "with the rule left out");
}
