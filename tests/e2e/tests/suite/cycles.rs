//! Committed 1 -> 0 -> 1 cycles under load: the promise itself. `SCALER_CYCLES` says how many.

use e2e::cycles::{Disturbance, Part, Plan};

/// The part of the cycles that at least must have met a drain attempt: the load proves little otherwise.
const AT_LEAST: f64 = 0.2;

#[tokio::test(flavor = "multi_thread")]
async fn cycles_under_load_lose_nothing() {
    let plan = Plan::new();
    let enough = plan.cycles as f64 * AT_LEAST;
    let report = plan.clone().run().await;
    println!("{report}");
    report.verdict.assert_nothing_lost();
    assert!(report.cycles >= plan.cycles);
    assert!(report.reverts() >= enough, "too few reverts to tell");
    assert!(report.counters.during_drain >= enough, "too few requests during a drain to prove anything");
}

#[tokio::test(flavor = "multi_thread")]
async fn cycles_lose_nothing_while_the_dlx_is_replaced_again_and_again() {
    undisturbed(Disturbance::Handover(Part::Dlx)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cycles_lose_nothing_while_the_autoscaler_is_replaced_again_and_again() {
    undisturbed(Disturbance::Handover(Part::Autoscaler)).await;
}

/// Nothing passes through the autoscaler: its death loses nothing, and what it left behind is cleared up.
#[tokio::test(flavor = "multi_thread")]
async fn cycles_lose_nothing_while_the_autoscaler_is_killed_again_and_again() {
    undisturbed(Disturbance::Kill(Part::Autoscaler)).await;
}

async fn undisturbed(disturbance: Disturbance) {
    let report = Plan { disturbance, ..Plan::new() }.run().await;
    println!("{report}");
    report.verdict.assert_nothing_lost();
}

/// A DLX that is killed takes with it what is on its way through it, and no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_dlx_loses_only_what_was_on_its_way_through_it() {
    let report = Plan { disturbance: Disturbance::Kill(Part::Dlx), ..Plan::new() }.run().await;
    println!("{report}");
    assert!(report.verdict.exact() && report.verdict.refused.is_empty(), "{report}");
    let unexplained = report.unexplained();
    assert!(
        unexplained.is_empty(),
        "{} losses no kill explains: {unexplained:?}\n{report}",
        unexplained.len()
    );
}
