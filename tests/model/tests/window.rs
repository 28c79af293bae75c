//! A window that is taken for complete is complete, and each fault around that is found.

use model::{
    explore,
    window::{Fault, Model, event},
};

const MODEL: Model = Model { fault: None, joins: 1, requests: 1, deaths: 1, leaders: 1, end: 4 };

#[test]
fn nothing_that_was_served_within_its_window_is_taken_for_idle() {
    let report = explore::explore(&MODEL);
    println!("{} states, {} steps, {:.1?}", report.states, report.steps, report.took);
    if let Some(broken) = &report.broken {
        panic!("{}\n{}", broken.what, broken.trace());
    }
    let all = event::IDLE
        | event::IDLE_ACROSS_A_RESTART
        | event::KEPT_FOR_ONE_THAT_LEFT
        | event::KEPT_FOR_A_NEW_LEADER
        | event::UNSEEN_BY_LOOKS;
    assert_eq!(report.events, all, "something never happens");
}

#[test]
fn each_fault_is_found() {
    for fault in [
        Fault::NoWatch,
        Fault::ReportsEarly,
        Fault::ServesOn,
        Fault::ForgetsLastReports,
        Fault::LeftIsIdle,
        Fault::LeaderKnows,
    ] {
        let report = explore::explore(&Model { fault: Some(fault), ..MODEL });
        let broken =
            report.broken.unwrap_or_else(|| panic!("{fault:?} is not found in {} states", report.states));
        println!("{fault:?}: {} steps, {} states", broken.trace.len(), report.states);
        if std::env::var_os("MODEL_TRACE").is_some() {
            println!("{}", broken.trace());
        }
    }
}
