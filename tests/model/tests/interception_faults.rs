//! Each seeded fault of the interception is found. With `MODEL_TRACE=1` the way to it is printed.

use model::{
    explore,
    interception::{
        fault::Fault,
        model::{Begins, Model},
        world::Budget,
    },
};
use scaler_types::{TrafficMode, protocol::Rules};

const ALWAYS: TrafficMode = TrafficMode::Always;
const WHEN_ASLEEP: TrafficMode = TrafficMode::WhenAsleep;
const BASE: Budget = Budget::NONE.requests(1).drains(1);

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

fn model(traffic_mode: TrafficMode, begins: Begins, budget: Budget) -> Model {
    Model::new(traffic_mode, begins, budget)
}

fn rivals(traffic_mode: TrafficMode, begins: Begins, budget: Budget) -> Model {
    Model { autoscalers: 2, ..model(traffic_mode, begins, budget) }
}

const STOPPED: &str = "goes to a pod that a commit has stopped";
const NO_ENDPOINT: &str = "no endpoint";
const ENDED: &str = "a DLX that has ended";

macro_rules! rules {
    ($($name:ident: $model:expr => $what:expr;)*) => {
        $(#[test] fn $name() {
            find(stringify!($name), &Model { rules: Rules { $name: false, ..Rules::default() }, ..$model }, $what);
        })*
    };
}

rules! {
    switch_before_commit: model(WHEN_ASLEEP, Begins::Workload, BASE.connections(1)) => STOPPED;
    confirm_counts_in_flight: model(ALWAYS, Begins::Intercepted, BASE) => "cuts a request of a DLX";
}

faults! {
    samples_before_delay SamplesBeforeDelay: model(WHEN_ASLEEP, Begins::Workload, BASE) => STOPPED;
    samples_nothing SamplesNothing: model(WHEN_ASLEEP, Begins::Workload, BASE.connections(1)) => "cuts a request at a pod";
    nodes_outlast_delay NodesOutlastDelay: model(WHEN_ASLEEP, Begins::Workload, BASE) => STOPPED;
    restores_early RestoresEarly: model(WHEN_ASLEEP, Begins::Asleep, BASE) => NO_ENDPOINT;
    knows_forever KnowsForever: rivals(WHEN_ASLEEP, Begins::Workload, BASE) => NO_ENDPOINT;
    removes_slice_under_key RemovesSliceUnderKey: model(WHEN_ASLEEP, Begins::Asleep, BASE) => NO_ENDPOINT;
    removes_slice_unseen RemovesSliceUnseen: model(ALWAYS, Begins::Intercepted, BASE.leaves(1)) => NO_ENDPOINT;
    removes_slice_of_another_service RemovesSliceOfAnotherService: rivals(WHEN_ASLEEP, Begins::Workload, BASE) => NO_ENDPOINT;
    removes_another_slice RemovesAnotherSlice: rivals(WHEN_ASLEEP, Begins::Asleep, BASE) => NO_ENDPOINT;
    intercepts_unread InterceptsUnread: rivals(WHEN_ASLEEP, Begins::Asleep, BASE) => NO_ENDPOINT;
    key_first KeyFirst: model(ALWAYS, Begins::Workload, BASE) => NO_ENDPOINT;
    does_not_stamp DoesNotStamp: model(ALWAYS, Begins::Intercepted, BASE.opt_outs(1)) => STOPPED;
    does_not_stamp_when_asleep DoesNotStamp: model(WHEN_ASLEEP, Begins::Workload, BASE.key_removals(1)) => STOPPED;
    stamps_what_is_there StampsWhatIsThere: model(WHEN_ASLEEP, Begins::Workload, BASE.key_removals(1)) => STOPPED;
    stamps_what_is_there_always StampsWhatIsThere: model(ALWAYS, Begins::Intercepted, BASE.key_removals(1)) => STOPPED;
    does_not_look_again DoesNotLookAgain: model(ALWAYS, Begins::Intercepted, BASE.key_removals(1)) => STOPPED;
    looks_in_memory LooksInMemory: rivals(ALWAYS, Begins::Intercepted, BASE.key_removals(1)) => STOPPED;
    slices_not_read SlicesNotRead: model(WHEN_ASLEEP, Begins::Workload, BASE.deletes(1)) => "what no DLX is named for";
    workload_not_read WorkloadNotRead: model(ALWAYS, Begins::Intercepted, BASE.opt_outs(1)) => STOPPED;
    reads_workload_first ReadsWorkloadFirst: model(ALWAYS, Begins::Intercepted, BASE.opt_outs(1)) => STOPPED;
    retries_removal RetriesRemoval: model(ALWAYS, Begins::Intercepted, BASE.opt_outs(1)) => STOPPED;
    writes_blindly WritesBlindly: model(WHEN_ASLEEP, Begins::Asleep, BASE.crashes(1)) => NO_ENDPOINT;
    writes_outlast_delay WritesOutlastDelay: model(WHEN_ASLEEP, Begins::Asleep, BASE.crashes(1)) => NO_ENDPOINT;
    intercepted_for_goes_on InterceptedForGoesOn: model(ALWAYS, Begins::Intercepted, BASE.key_removals(1).connections(1)) => STOPPED;
    ends_named EndsNamed: Model { dlxs: 2, ..model(WHEN_ASLEEP, Begins::Asleep, BASE.leaves(1)) } => ENDED;
    ends_without_delay EndsWithoutDelay: Model { dlxs: 2, ..model(WHEN_ASLEEP, Begins::Asleep, BASE.leaves(1)) } => ENDED;
    names_from_memory NamesFromMemory: Model { dlxs: 2, ..model(ALWAYS, Begins::Workload, BASE.leaves(1)) } => ENDED;
    no_sync NoSync: model(WHEN_ASLEEP, Begins::Asleep, BASE) => "it ends active, with the backend Dlx";
}
