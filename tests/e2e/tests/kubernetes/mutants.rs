//! Each guarantee of the API is needed: on one that lacks it, the suite fails.

use devcluster::Options;
use e2e::kubernetes::{needs_devcluster, run};

use crate::scenarios::{
    answered_between_confirmation_and_commit, answers_after_a_gap_in_its_watches,
    sleeps_beside_a_stalled_watch,
};

#[test]
fn without_conflicts_a_request_is_lost() {
    if needs_devcluster("leaves guarantees out of the API") {
        return;
    }
    run(async {
        let api = Options { no_conflict: true, ..Options::default() };
        assert!(!answered_between_confirmation_and_commit(api).await, "it was answered all the same");
    });
}

#[test]
fn without_410_a_dlx_is_left_with_an_old_view() {
    if needs_devcluster("leaves guarantees out of the API") {
        return;
    }
    run(async {
        let api = Options { no_gone: true, ..Options::default() };
        assert!(!answers_after_a_gap_in_its_watches(api).await, "it was answered all the same");
    });
}

#[test]
fn without_stalls_the_stalled_watch_is_missed() {
    if needs_devcluster("leaves guarantees out of the API") {
        return;
    }
    run(async {
        let api = Options { no_stall: true, ..Options::default() };
        assert!(sleeps_beside_a_stalled_watch(api).await, "it did not sleep, and no watch was stalled");
    });
}
