//! Committed 1 -> 0 -> 1 cycles under load: the promise itself. `SCALER_CYCLES` says how many.

use devcluster::netns;
use e2e::kubernetes::{
    cycles::{Disturbance, Plan},
    shop::Part,
};

fn lose_nothing(disturbance: Disturbance) {
    netns::run(async move {
        let plan = Plan { disturbance, ..Plan::new() };
        let cycles = plan.cycles;
        let report = plan.run().await;
        println!("{report}");
        report.verdict.assert_nothing_lost();
        assert!(report.cycles >= cycles);
        assert!(report.counters.in_fence > 0.0, "no request met a fence: the load tells nothing");
    });
}

#[test]
fn cycles_under_load_lose_nothing() {
    lose_nothing(Disturbance::None);
}

#[test]
fn cycles_lose_nothing_while_dlxs_are_deleted() {
    lose_nothing(Disturbance::Deleted(Part::Dlx));
}

#[test]
fn cycles_lose_nothing_while_autoscalers_are_deleted() {
    lose_nothing(Disturbance::Deleted(Part::Autoscaler));
}

#[test]
fn cycles_lose_nothing_while_the_leader_changes() {
    lose_nothing(Disturbance::LeaderChange);
}

#[test]
fn cycles_lose_nothing_while_the_dlxs_are_rolled_out() {
    lose_nothing(Disturbance::Rollout);
}
