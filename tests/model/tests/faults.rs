//! Each seeded fault is found. With `MODEL_TRACE=1` the way to it is printed.

use model::{explore, fault::Fault, model::Model, world::Budget};
use scaler_types::protocol::Rules;

const BASE: Budget = Budget::NONE.requests(1).drains(1);

fn find(name: &str, model: &Model) {
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
}

macro_rules! rules {
    ($($name:ident: $model:expr;)*) => {
        $(#[test] fn $name() {
            find(stringify!($name), &Model { rules: Rules { $name: false, ..Rules::default() }, ..$model });
        })*
    };
}

macro_rules! faults {
    ($($name:ident $fault:ident: $model:expr;)*) => {
        $(#[test] fn $name() {
            find(stringify!($name), &Model { fault: Some(Fault::$fault), ..$model });
        })*
    };
}

rules! {
    commit_tests_version: Model::new(BASE);
    confirm_tests_nonce: Model::new(BASE);
    confirm_counts_in_flight: Model::new(BASE);
    revert_before_forward: Model::new(BASE);
    own_write_is_ordered: Model { places: 1, dlxs: 1, autoscalers: 1, ..Model::new(BASE.drains(2).requests(2)) };
    wait_for_all: Model::new(BASE);
    members_after_fence: Model { dlxs: 1, ..Model::new(BASE) };
}

faults! {
    lists_before_registering ListsBeforeRegistering: Model { dlxs: 1, ..Model::new(BASE) };
    unreachable_is_dead UnreachableIsDead: Model::new(BASE.freezes(1));
    reverts_by_timer RevertsByTimer: Model::new(BASE);
    stream_out_of_order StreamOutOfOrder: Model { autoscalers: 1, ..Model::new(BASE.others(1)) };
    forgets_joined ForgetsJoined: Model { dlxs: 1, ..Model::new(BASE) };
    looks_before_counting LooksBeforeCounting: Model::new(BASE);
    leaves_early LeavesEarly: Model::new(BASE.leaves(1));
    lists_the_past ListsThePast: Model { dlxs: 1, ..Model::new(BASE) };
    unknown_is_done UnknownIsDone: Model { places: 1, dlxs: 1, autoscalers: 1, ..Model::new(BASE.requests(2).unknowns(1)) };
    no_recovery NoRecovery: Model::new(BASE.autoscaler_crashes(1));
    wants_once WantsOnce: Model::new(BASE.unknowns(1));
    wakes_over_old_pods WakesOverOldPods: Model { autoscalers: 1, pods_lag: true, slept: true, ..Model::new(BASE) };
    forgets_old_pods ForgetsOldPods: Model { autoscalers: 1, pods_lag: true, slept: true, ..Model::new(BASE.requests(2)) };
    buries_for_good BuriesForGood: Model { autoscalers: 0, pods_lag: true, slept: true, ..Model::new(BASE) };
    sends_again SendsAgain: Model::new(BASE.zeros(1));
    resize_keeps_nonce ResizeKeepsNonce: Model { places: 1, dlxs: 1, ..Model::new(BASE.resizes(2)) };
    resizes_while_draining ResizesWhileDraining: Model { places: 1, dlxs: 1, ..Model::new(BASE.resizes(1)) };
    resize_trusts_record ResizeTrustsRecord: Model { places: 1, dlxs: 1, slept: true, ..Model::new(Budget::NONE.requests(1).resizes(2)) };
    wakes_blindly WakesBlindly: Model { places: 1, dlxs: 1, slept: true, ..Model::new(BASE.metrics(1)) };
    leader_wakes_over_old_pods WakesOverOldPods: Model { autoscalers: 1, places: 1, dlxs: 1, pods_lag: true, slept: true, ..Model::new(Budget::NONE.requests(1).metrics(1)) };
}

/// A cut is mostly found first; this shows that the other property would do as well.
#[test]
fn reaching_a_sleeping_resource_is_found_alone() {
    let rules = Rules { confirm_tests_nonce: false, ..Rules::default() };
    let report = explore::explore(&Model { rules, cuts_count: false, ..Model::new(BASE) });
    assert_eq!(report.broken.unwrap().what, "a request reaches a resource that a commit has scaled to zero");
}

/// Without any request that it could cut.
#[test]
fn a_commit_over_a_resize_is_found_alone() {
    let rules = Rules { commit_tests_version: false, ..Rules::default() };
    let budget = Budget::NONE.drains(1).resizes(1);
    let report = explore::explore(&Model { rules, places: 1, dlxs: 1, ..Model::new(budget) });
    let what = "a commit takes the replicas that a resize gave after its drain attempt began";
    assert_eq!(report.broken.unwrap().what, what);
}
