//! The route, every rule in force, no fault: nothing is lost, nobody is led astray, and everything interesting happens.

use model::{
    explore,
    route::{
        event::Event,
        model::{Begins, Model},
        world::Budget,
    },
};
use scaler_types::TrafficMode;

const ALWAYS: TrafficMode = TrafficMode::Always;
const DIRECT: TrafficMode = TrafficMode::WhenAsleep;
const BASE: Budget = Budget::NONE.requests(1).fences(1);

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

fn model(path: TrafficMode, begins: Begins, budget: Budget) -> Model {
    Model::new(path, begins, budget)
}

fn rivals(path: TrafficMode, begins: Begins, budget: Budget) -> Model {
    Model { autoscalers: 2, ..model(path, begins, budget) }
}

scenarios! {
    always_opts_in: model(ALWAYS, Begins::Own, BASE.connections(1).opt_outs(1))
        => [Led, Committed, WokenByRequest, PastDlxs, OptedOutInsideFence, OptedOutAsleep, LedToBoth, GivenBack];
    always_led: model(ALWAYS, Begins::Led, BASE.requests(2).fences(2)) => [Committed, CommitConflict, StampedInVain, WokenByRequest];
    always_rivals: rivals(ALWAYS, Begins::Led, BASE.opt_outs(1)) => [Committed, RivalReverted, RouteConflict, KeyStays];
    always_gitops: model(ALWAYS, Begins::Led, BASE.takes(1).connections(1).pools(1))
        => [Committed, KeyTakenInsideFence, RouteChanged, PutBack, PastDlxs, CutUnseen];
    /// The other one puts the key back.
    always_rivals_gitops: rivals(ALWAYS, Begins::Led, BASE.takes(1)) => [Committed, RivalReverted, RouteChanged, KeyTakenInsideFence, PutBack];
    always_crash: model(ALWAYS, Begins::Led, BASE.crashes(1).takes(1).opt_outs(1)) => [OrphanLanded, OrphanConflict, LeftBehind];
    direct: Model { nodes: 2, ..model(DIRECT, Begins::Own, BASE.connections(1)) } => [Committed, NotIdle, RevertedBySwitched];
    direct_pooled: model(DIRECT, Begins::Own, BASE.connections(1).pools(1)) => [Committed, NotIdle, CutUnseen];
    direct_wakes: Model { nodes: 2, ..model(DIRECT, Begins::Asleep, BASE.connections(1)) }
        => [WokenByRequest, LedToBoth, GivenBack];
    direct_again: model(DIRECT, Begins::Own, BASE.fences(2)) => [Committed];
    direct_crash: model(DIRECT, Begins::Own, BASE.crashes(1).connections(1)) => [OrphanLanded, OrphanConflict, LeftBehind];
    direct_crash_awake: model(DIRECT, Begins::Asleep, BASE.crashes(1).connections(1)) => [Committed, SwitchLost, OrphanLanded, OrphanConflict, RemovalRefused];
    direct_rivals: rivals(DIRECT, Begins::Own, BASE.connections(1)) => [RivalReverted, RouteConflict, StaleDropped];
    direct_rivals_awake: rivals(DIRECT, Begins::Asleep, BASE) => [Committed, RivalReverted, RouteConflict];
    gitops: model(DIRECT, Begins::Own, BASE.takes(2).connections(1)) => [KeyTakenInsideFence, RouteChanged, SwitchLost, PutBack];
    slices_deleted: model(DIRECT, Begins::Own, BASE.deletes(1).own_deletes(1)) => [SliceDeletedUnderKey, RouteChanged];
    /// By a person, and inside a drain attempt by an HPA.
    scaled_up: model(DIRECT, Begins::Own, BASE.ups(1).takes(1)) => [ScaledInsideFence, WokenByHand, CommitConflict];
    scaled_to_zero: model(DIRECT, Begins::Own, BASE.zeros(1)) => [ZeroInsideFence];
    scaled_by_hand: model(DIRECT, Begins::Asleep, Budget::NONE.fences(1).zeros(1).ups(1)) => [WokenByHand, ZeroInsideFence];
    opts_out: model(DIRECT, Begins::Own, BASE.opt_outs(1).crashes(1)) => [OptedOutInsideFence, OptedOutAsleep, OrphanLanded];
    joins: model(DIRECT, Begins::Asleep, BASE.joins(1)) => [Tended, JoinedInsideFence, Committed];
    leaves: Model { dlxs: 2, ..model(DIRECT, Begins::Own, BASE.leaves(1)) } => [Tended, Ended, NamedAgain, Committed];
    /// The only one leaves before the next has come.
    replaced: model(ALWAYS, Begins::Led, BASE.leaves(1).joins(1)) => [Tended, Ended, DeadMan, GivenBack, Committed];
    dies: Model { dlxs: 2, ..model(DIRECT, Begins::Own, BASE.deaths(1)) } => [DeadNamed, Tended, Committed];
    dead_man: model(ALWAYS, Begins::Led, BASE.deaths(1).joins(1)) => [DeadMan, DeadNamed, GivenBack, Led];
}
