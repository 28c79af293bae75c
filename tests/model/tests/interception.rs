//! The interception, every rule in force, no fault: nothing is lost, no connection goes to a stopped pod, and everything interesting
//! happens.

use model::{
    explore,
    interception::{
        event::Event,
        model::{Begins, Model},
        world::Budget,
    },
};
use scaler_types::TrafficMode;

const ALWAYS: TrafficMode = TrafficMode::Always;
const WHEN_ASLEEP: TrafficMode = TrafficMode::WhenAsleep;
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

fn model(traffic_mode: TrafficMode, begins: Begins, budget: Budget) -> Model {
    Model::new(traffic_mode, begins, budget)
}

fn rivals(traffic_mode: TrafficMode, begins: Begins, budget: Budget) -> Model {
    Model { autoscalers: 2, ..model(traffic_mode, begins, budget) }
}

scenarios! {
    always_opts_in: model(ALWAYS, Begins::Workload, BASE.connections(1).opt_outs(1))
        => [Intercepted, Committed, WokenByRequest, PastDlxs, OptedOutDuringDrain, OptedOutAsleep, SwitchedToBoth, Restored];
    always_intercepted: model(ALWAYS, Begins::Intercepted, BASE.requests(2).drains(2)) => [Committed, CommitConflict, StampedInVain, WokenByRequest];
    always_rivals: rivals(ALWAYS, Begins::Intercepted, BASE.opt_outs(1)) => [Committed, RivalReverted, CallConflict, KeyStays];
    always_gitops: model(ALWAYS, Begins::Intercepted, BASE.key_removals(1).connections(1).pools(1))
        => [Committed, KeyRemovedDuringDrain, ServiceChanged, KeyAddedAgain, PastDlxs, CutUnseen];
    /// The other one puts the key back.
    always_rivals_gitops: rivals(ALWAYS, Begins::Intercepted, BASE.key_removals(1)) => [Committed, RivalReverted, ServiceChanged, KeyRemovedDuringDrain, KeyAddedAgain];
    always_crash: model(ALWAYS, Begins::Intercepted, BASE.crashes(1).key_removals(1).opt_outs(1)) => [OrphanLanded, OrphanConflict, StaleDrainReverted];
    when_asleep: Model { nodes: 2, ..model(WHEN_ASLEEP, Begins::Workload, BASE.connections(1)) } => [Committed, NotIdle, RevertedBySwitched];
    when_asleep_pooled: model(WHEN_ASLEEP, Begins::Workload, BASE.connections(1).pools(1)) => [Committed, NotIdle, CutUnseen];
    when_asleep_wakes: Model { nodes: 2, ..model(WHEN_ASLEEP, Begins::Asleep, BASE.connections(1)) }
        => [WokenByRequest, SwitchedToBoth, Restored];
    when_asleep_again: model(WHEN_ASLEEP, Begins::Workload, BASE.drains(2)) => [Committed];
    when_asleep_crash: model(WHEN_ASLEEP, Begins::Workload, BASE.crashes(1).connections(1)) => [OrphanLanded, OrphanConflict, StaleDrainReverted];
    when_asleep_crash_awake: model(WHEN_ASLEEP, Begins::Asleep, BASE.crashes(1).connections(1)) => [Committed, SwitchLost, OrphanLanded, OrphanConflict, RemovalRefused];
    when_asleep_rivals: rivals(WHEN_ASLEEP, Begins::Workload, BASE.connections(1)) => [RivalReverted, CallConflict, StaleDropped];
    when_asleep_rivals_awake: rivals(WHEN_ASLEEP, Begins::Asleep, BASE) => [Committed, RivalReverted, CallConflict];
    gitops: model(WHEN_ASLEEP, Begins::Workload, BASE.key_removals(2).connections(1)) => [KeyRemovedDuringDrain, ServiceChanged, SwitchLost, KeyAddedAgain];
    slices_deleted: model(WHEN_ASLEEP, Begins::Workload, BASE.deletes(1).own_deletes(1)) => [SliceDeletedUnderKey, ServiceChanged];
    /// By a person, and inside a drain attempt by an HPA.
    scaled_up: model(WHEN_ASLEEP, Begins::Workload, BASE.ups(1).key_removals(1)) => [ScaledDuringDrain, ScaledUpManually, CommitConflict];
    scaled_to_zero: model(WHEN_ASLEEP, Begins::Workload, BASE.zeros(1)) => [ZeroDuringDrain];
    scaled_manually: model(WHEN_ASLEEP, Begins::Asleep, Budget::NONE.drains(1).zeros(1).ups(1)) => [ScaledUpManually, ZeroDuringDrain];
    opts_out: model(WHEN_ASLEEP, Begins::Workload, BASE.opt_outs(1).crashes(1)) => [OptedOutDuringDrain, OptedOutAsleep, OrphanLanded];
    joins: model(WHEN_ASLEEP, Begins::Asleep, BASE.joins(1)) => [SlicesUpdated, JoinedDuringDrain, Committed];
    leaves: Model { dlxs: 2, ..model(WHEN_ASLEEP, Begins::Workload, BASE.leaves(1)) } => [SlicesUpdated, Ended, NamedAgain, Committed];
    /// The only one leaves before the next has come.
    replaced: model(ALWAYS, Begins::Intercepted, BASE.leaves(1).joins(1)) => [SlicesUpdated, Ended, FailedOver, Restored, Committed];
    dies: Model { dlxs: 2, ..model(WHEN_ASLEEP, Begins::Workload, BASE.deaths(1)) } => [DeadNamed, SlicesUpdated, Committed];
    failover: model(ALWAYS, Begins::Intercepted, BASE.deaths(1).joins(1)) => [FailedOver, DeadNamed, Restored, Intercepted];
}
