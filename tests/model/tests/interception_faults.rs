//! Each seeded fault of the route is found. With `MODEL_TRACE=1` the way to it is printed.

use model::{
    explore,
    route::{
        fault::Fault,
        model::{Begins, Model},
        world::Budget,
    },
};
use scaler_types::{TrafficMode, protocol::Rules};

const ALWAYS: TrafficMode = TrafficMode::Always;
const DIRECT: TrafficMode = TrafficMode::WhenAsleep;
const BASE: Budget = Budget::NONE.requests(1).fences(1);

fn find(name: &str, model: &Model, what: &str) {
    let report = explore::explore(model);
    let broken = report.broken.unwrap_or_else(|| panic!("{name} is not found in {} states", report.states));
    println!(
        "{name}: {} in {} steps, {} states, {:.1?}",
        broken.what,
        broken.trace.len(),
        report.states,
        report.took
    );
    if std::env::var_os("MODEL_TRACE").is_some() {
        println!("{}", broken.trace());
    }
    assert!(broken.what.contains(what), "{name}: not for what is wrong with it: {}", broken.what);
}

macro_rules! faults {
    ($($name:ident $fault:ident: $model:expr => $what:expr;)*) => {
        $(#[test] fn $name() {
            find(stringify!($name), &Model { fault: Some(Fault::$fault), ..$model }, $what);
        })*
    };
}

fn model(path: TrafficMode, begins: Begins, budget: Budget) -> Model {
    Model::new(path, begins, budget)
}

fn rivals(path: TrafficMode, begins: Begins, budget: Budget) -> Model {
    Model { autoscalers: 2, ..model(path, begins, budget) }
}

const ASTRAY: &str = "goes to a pod that a commit has stopped";
const NOBODY: &str = "nobody to go to";
const ENDED: &str = "a DLX that has ended";

macro_rules! rules {
    ($($name:ident: $model:expr => $what:expr;)*) => {
        $(#[test] fn $name() {
            find(stringify!($name), &Model { rules: Rules { $name: false, ..Rules::default() }, ..$model }, $what);
        })*
    };
}

rules! {
    switch_before_commit: model(DIRECT, Begins::Own, BASE.connections(1)) => ASTRAY;
    confirm_counts_in_flight: model(ALWAYS, Begins::Led, BASE) => "cuts a request of a DLX";
}

faults! {
    samples_before_grace SamplesBeforeGrace: model(DIRECT, Begins::Own, BASE) => ASTRAY;
    samples_nothing SamplesNothing: model(DIRECT, Begins::Own, BASE.connections(1)) => "cuts a request at a pod";
    nodes_outlast_grace NodesOutlastGrace: model(DIRECT, Begins::Own, BASE) => ASTRAY;
    gives_back_early GivesBackEarly: model(DIRECT, Begins::Asleep, BASE) => NOBODY;
    knows_forever KnowsForever: rivals(DIRECT, Begins::Own, BASE) => NOBODY;
    removes_slice_under_key RemovesSliceUnderKey: model(DIRECT, Begins::Asleep, BASE) => NOBODY;
    removes_slice_unseen RemovesSliceUnseen: model(ALWAYS, Begins::Led, BASE.leaves(1)) => NOBODY;
    removes_slice_of_another_service RemovesSliceOfAnotherService: rivals(DIRECT, Begins::Own, BASE) => NOBODY;
    removes_another_slice RemovesAnotherSlice: rivals(DIRECT, Begins::Asleep, BASE) => NOBODY;
    leads_unread LeadsUnread: rivals(DIRECT, Begins::Asleep, BASE) => NOBODY;
    key_first KeyFirst: model(ALWAYS, Begins::Own, BASE) => NOBODY;
    does_not_stamp DoesNotStamp: model(ALWAYS, Begins::Led, BASE.opt_outs(1)) => ASTRAY;
    does_not_stamp_direct DoesNotStamp: model(DIRECT, Begins::Own, BASE.takes(1)) => ASTRAY;
    stamps_what_is_there StampsWhatIsThere: model(DIRECT, Begins::Own, BASE.takes(1)) => ASTRAY;
    stamps_what_is_there_always StampsWhatIsThere: model(ALWAYS, Begins::Led, BASE.takes(1)) => ASTRAY;
    does_not_look_again DoesNotLookAgain: model(ALWAYS, Begins::Led, BASE.takes(1)) => ASTRAY;
    looks_in_memory LooksInMemory: rivals(ALWAYS, Begins::Led, BASE.takes(1)) => ASTRAY;
    slices_not_read SlicesNotRead: model(DIRECT, Begins::Own, BASE.deletes(1)) => "what no DLX is named for";
    workload_not_read WorkloadNotRead: model(ALWAYS, Begins::Led, BASE.opt_outs(1)) => ASTRAY;
    reads_workload_first ReadsWorkloadFirst: model(ALWAYS, Begins::Led, BASE.opt_outs(1)) => ASTRAY;
    tries_again TriesAgain: model(ALWAYS, Begins::Led, BASE.opt_outs(1)) => ASTRAY;
    writes_blindly WritesBlindly: model(DIRECT, Begins::Asleep, BASE.crashes(1)) => NOBODY;
    writes_outlast_grace WritesOutlastGrace: model(DIRECT, Begins::Asleep, BASE.crashes(1)) => NOBODY;
    led_for_goes_on LedForGoesOn: model(ALWAYS, Begins::Led, BASE.takes(1).connections(1)) => ASTRAY;
    ends_named EndsNamed: Model { dlxs: 2, ..model(DIRECT, Begins::Asleep, BASE.leaves(1)) } => ENDED;
    ends_without_grace EndsWithoutGrace: Model { dlxs: 2, ..model(DIRECT, Begins::Asleep, BASE.leaves(1)) } => ENDED;
    names_from_memory NamesFromMemory: Model { dlxs: 2, ..model(ALWAYS, Begins::Own, BASE.leaves(1)) } => ENDED;
    nobody_tends NobodyTends: model(DIRECT, Begins::Asleep, BASE) => "it ends active, and leads to Dlx";
}
