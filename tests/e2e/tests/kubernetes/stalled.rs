//! Daemons whose watches deliver nothing, not everything, or late.

use devcluster::Options;
use e2e::kubernetes::{needs_devcluster, run};

use crate::scenarios::{
    answered_between_confirmation_and_commit, answers_after_a_gap_in_its_watches,
    sleeps_beside_a_stalled_watch,
};

#[test]
fn nothing_sleeps_beside_a_dlx_whose_watch_stalls() {
    if needs_devcluster("orders faults of the API") {
        return;
    }
    run(async {
        assert!(!sleeps_beside_a_stalled_watch(Options::default()).await, "it was put to sleep");
    });
}

#[test]
fn a_dlx_whose_watches_were_away_too_long_lists_again() {
    if needs_devcluster("orders faults of the API") {
        return;
    }
    run(async {
        assert!(answers_after_a_gap_in_its_watches(Options::default()).await, "its view stays old");
    });
}

#[test]
fn a_request_between_confirmation_and_commit_is_answered() {
    if needs_devcluster("orders faults of the API") {
        return;
    }
    run(async {
        assert!(answered_between_confirmation_and_commit(Options::default()).await, "it was lost");
    });
}
