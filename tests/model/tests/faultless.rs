//! Every rule in force, no fault: nothing is lost, nothing is stuck, and everything interesting happens.

use model::{event::Event, explore, model::Model, world::Budget};

const BASE: Budget = Budget::NONE.requests(1).drains(1);

/// Explores all of it, and compares what happened with what had to.
fn check(name: &str, model: &Model, expected: &[Event]) {
    let report = explore::explore(model);
    println!(
        "{name}: {} states, {} steps, {} ends, {:.1?}",
        report.states, report.steps, report.ends, report.took
    );
    if let Some(broken) = &report.broken {
        panic!("{name}: {}\n{}", broken.what, broken.trace());
    }
    assert!(report.ends > 0, "{name}: it never comes to an end");
    let happened: Vec<_> = Event::ALL.iter().filter(|event| report.events & event.bit() != 0).collect();
    println!("{name}: {happened:?}");
    let missing: Vec<_> = expected.iter().filter(|event| report.events & event.bit() == 0).collect();
    assert!(missing.is_empty(), "{name}: never happens: {missing:?}");
}

macro_rules! scenarios {
    ($($(#[$doc:meta])* $name:ident: $model:expr => [$($event:ident),* $(,)?];)*) => {
        $($(#[$doc])* #[test] fn $name() {
            check(stringify!($name), &$model, &[$(Event::$event),*]);
        })*

        #[test]
        fn every_event_is_expected_somewhere() {
            let expected = [$($(Event::$event),*),*];
            let forgotten: Vec<_> = Event::ALL.iter().filter(|event| !expected.contains(event)).collect();
            assert!(forgotten.is_empty(), "no scenario expects {forgotten:?}");
        }
    };
}

scenarios! {
    requests: Model { autoscalers: 1, ..Model::new(BASE.requests(2)) }
        => [Committed, RevertedByRequest, RevertedByRefusal, CommitConflict, TwoWakes, LateConfirm, RefusedInFlight, WokenByRequest, HeldDispatched];
    rivals: Model::new(BASE) => [Committed, RivalReverted];
    two_drains: Model { places: 1, dlxs: 1, ..Model::new(BASE.drains(2)) } => [Committed, RivalReverted, OwnWriteOvertaken];
    joins: Model { dlxs: 1, autoscalers: 1, ..Model::new(BASE.dlx_crashes(1)) }
        => [JoinedDuringDrain, CommittedPastJoiner, DiedWhileAsked];
    no_member: Model { dlxs: 0, autoscalers: 1, ..Model::new(BASE) } => [NoMembers];
    everything_dies: Model { places: 1, dlxs: 1, autoscalers: 1, ..Model::new(BASE.dlx_crashes(1).autoscaler_crashes(1)) }
        => [DiedWhileAsked, StaleDrainRecovered, OrphanLanded];
    autoscaler_crash: Model::new(BASE.autoscaler_crashes(1)) => [StaleDrainRecovered, OrphanLanded];
    manual_zero: Model { places: 1, dlxs: 1, ..Model::new(BASE.zeros(1)) } => [ZeroDuringDrain, RefusedAndHeld];
    manual_up: Model { autoscalers: 1, ..Model::new(BASE.others(1)) } => [ScaledUpManually];
    unreachable: Model { autoscalers: 1, ..Model::new(BASE.freezes(1).resumes(1)) } => [DrainBesideUnreachable];
    leaves: Model { autoscalers: 1, ..Model::new(BASE.leaves(1)) } => [Left];
    lost_answers: Model { autoscalers: 1, ..Model::new(BASE.unknowns(1)) } => [CommitUnknown, WakeUnknown, OrphanLanded];
    repeated: Model { autoscalers: 1, ..Model::new(BASE.repeats(1)) } => [StaleIgnored];
    failed_wake: Model { autoscalers: 1, ..Model::new(BASE.failures(1)) } => [WakeFailed];
    /// Kubernetes keeps the replicas of a wake that failed: such a resource sleeps again, and is woken again.
    keeps_replicas: Model { places: 1, dlxs: 1, autoscalers: 1, ..Model::new(BASE.requests(2).drains(2).failures(1)) }
        => [WakeFailed, DrainedFailed, FailedWoken, FailedWokenUp];
    pods_of_before: Model { autoscalers: 0, pods_lag: true, slept: true, ..Model::new(Budget::NONE.requests(2)) }
        => [WakeWaited, OldPodBuried, NewPodUnburied, TwoWakes];
    pods_lag: Model { autoscalers: 1, pods_lag: true, ..Model::new(BASE) } => [WakeWaited, OldPodBuried, NewPodUnburied];
    resized: Model { places: 1, dlxs: 1, ..Model::new(BASE.resizes(2)) }
        => [Resized, ResizeConflict, ResizeBeatDrain, CommitAfterResize, Committed, RivalReverted];
    resized_waking: Model { places: 1, dlxs: 1, slept: true, ..Model::new(Budget::NONE.requests(1).resizes(2)) }
        => [ResizedWaking, Resized, ResizeConflict, WokenByRequest, HeldDispatched];
    resized_by_a_dead_leader: Model { places: 1, dlxs: 1, autoscalers: 1, ..Model::new(BASE.resizes(1).autoscaler_crashes(1).unknowns(1)) }
        => [Resized, OrphanLanded, StaleDrainRecovered];
    woken_by_leaders: Model { places: 1, dlxs: 1, slept: true, ..Model::new(Budget::NONE.requests(1).metrics(2)) }
        => [WokenByLeader, LeaderWakeConflict, WokenBesideRequest, WokenByRequest, HeldDispatched];
    woken_and_drained: Model { places: 1, dlxs: 1, slept: true, ..Model::new(BASE.metrics(1)) }
        => [WokenByLeader, LeaderWakeConflict, WokenBesideRequest, WokenByRequest, Committed];
    woken_by_a_dead_leader: Model { places: 1, dlxs: 1, autoscalers: 1, slept: true, ..Model::new(BASE.metrics(1).autoscaler_crashes(1)) }
        => [WokenByLeader, OrphanLanded, Committed];
    woken_after_a_manual_zero: Model { places: 1, dlxs: 1, autoscalers: 1, ..Model::new(Budget::NONE.requests(1).metrics(1).zeros(1)) }
        => [WokenByLeader, LeaderWakeConflict, WokenBesideRequest];
    woken_by_the_leader_over_old_pods: Model { autoscalers: 1, places: 1, dlxs: 1, pods_lag: true, slept: true, ..Model::new(BASE.metrics(1)) }
        => [WokenByLeader, OldPodBuried, Committed];
    /// Its wake failed and it came up since: the leader takes it for awake, and its replicas go by the rule.
    resumed_after_a_failed_wake: Model { places: 1, dlxs: 1, autoscalers: 1, slept: true, ..Model::new(BASE.failures(1).metrics(1).resizes(1)) }
        => [WakeFailed, FailedResumed, Resized, Committed];
    undone: Model { places: 1, dlxs: 1, autoscalers: 1, ..Model::new(BASE.undos(1)) } => [Undone, UndoneDuringDrain];
}
