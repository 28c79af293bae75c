//! From an earlier version to this one and back, under the load of ever. The earlier one leads no Services, so the load goes to the
//! DLXs: what is led has to be given back before one goes back to it.

use e2e::kubernetes::{
    cycles::{Disturbance, Plan},
    needs_devcluster, run,
    shop::earlier,
};

/// All orders in which the daemons can be replaced, each state of them long enough for cycles.
#[test]
fn cycles_lose_nothing_while_daemons_are_upgraded_and_downgraded() {
    if needs_devcluster("runs programs of this machine as pods") {
        return;
    }
    if let Err(why) = earlier() {
        println!("not proved: {why}");
        return;
    }
    run(async {
        let plan = Plan { disturbance: Disturbance::Versions, ..Plan::new() };
        let report = plan.run().await;
        println!("{report}");
        report.verdict.assert_nothing_lost();
        report.assert_done();
        // Both daemons up and down, in both orders.
        assert!(report.replaced >= 8, "{} daemons replaced", report.replaced);
    });
}
