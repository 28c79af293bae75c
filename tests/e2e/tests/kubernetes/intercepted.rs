//! Services that are always intercepted: the usual load, by the Services' own addresses, over nodes that follow changes late.

use e2e::kubernetes::{
    cycles::{Disturbance, Plan},
    run,
    shop::Part,
};

use crate::cycles::outlast_many_windows;

fn lose_nothing(disturbance: Disturbance) {
    run(async move {
        let plan = Plan { disturbance, ..Plan::new().intercepted("always") };
        let report = plan.run().await;
        println!("{report}");
        report.verdict.assert_nothing_lost();
        report.assert_done();
    });
}

#[test]
fn cycles_by_services_lose_nothing() {
    lose_nothing(Disturbance::None);
}

#[test]
fn cycles_by_services_lose_nothing_while_dlxs_are_deleted() {
    lose_nothing(Disturbance::Deleted(Part::Dlx));
}

#[test]
fn cycles_by_services_lose_nothing_while_the_dlxs_are_rolled_out() {
    lose_nothing(Disturbance::Rollout);
}

#[test]
fn cycles_by_services_lose_nothing_while_the_leader_changes() {
    lose_nothing(Disturbance::LeaderChange);
}

#[test]
fn a_slow_request_and_an_open_connection_outlast_many_windows() {
    run(outlast_many_windows(true));
}
