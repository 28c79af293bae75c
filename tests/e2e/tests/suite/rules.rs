//! Each of the protocol's rules is needed: without it, the same load finds losses.

use e2e::cycles::Plan;

/// Far more cycles than a loss takes to be found.
const CYCLES: u64 = 60;

#[tokio::test(flavor = "multi_thread")]
async fn without_the_version_test_of_a_commit_requests_are_lost() {
    loses("commit_tests_version").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_counting_in_flight_requests_are_lost() {
    loses("confirm_counts_in_flight").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_reverting_before_forwarding_requests_are_lost() {
    loses("revert_before_forward").await;
}

async fn loses(rule: &'static str) {
    let plan = Plan { cycles: CYCLES, without: Some(rule), until_lost: true, ..Plan::new() };
    let report = plan.run().await;
    println!("without {rule}: {report}");
    assert!(
        !report.verdict.lost.is_empty(),
        "nothing was lost without {rule}: the load does not find it\n{report}"
    );
}
