//! Nothing sleeps before its rollout is over, and windows begin when it was ready.

use scaler_types::{Rollout, RolloutPhase};

use super::*;

fn rollout(phase: RolloutPhase, status: &str) -> Rollout {
    Rollout {
        revision: "a".to_owned(),
        phase,
        status: status.to_owned(),
        deadline: Some(Duration::from_secs(60)),
    }
}

/// What was seen so long ago; `ready` if it was complete then.
fn seen(case: &Case, ago: Duration, ready: bool) -> Option<ObservedRollout> {
    let mut then = case.resource.clone();
    if ready {
        then.rollout = Some(rollout(RolloutPhase::Complete, ""));
    }
    ObservedRollout::observe(None, case.now - ago, &then, false)
}

fn with(phase: RolloutPhase, ago: Duration, ready: bool) -> Case {
    Case::with(|case| {
        case.resource.rollout = Some(rollout(phase, "0 of 2 pods are ready"));
        case.history.rollout = seen(case, ago, ready);
    })
}

#[test]
fn what_a_rollout_lets_sleep() {
    use RolloutPhase::{Complete, Overdue, Progressing};
    let minute = Duration::from_secs(60);
    let requested = |mut case: Case| {
        case.resource.sleep_now = true;
        case
    };
    for (place, (code, case)) in [
        ("rolling_out", with(Progressing, Duration::ZERO, false)),
        ("rolling_out", with(Progressing, minute - SECOND, false)),
        // Also where a user requested it.
        ("rolling_out", requested(with(Progressing, minute - SECOND, false))),
        ("quiet", with(Progressing, minute, false)),
        ("requested", requested(with(Progressing, minute, false))),
        // It was complete, and its pods are no longer ready.
        ("quiet", with(Progressing, WINDOW, true)),
        ("quiet", with(Overdue, Duration::ZERO, false)),
        ("quiet", with(Complete, WINDOW, true)),
        ("recently_ready", with(Complete, WINDOW - SECOND, true)),
        ("requested", requested(with(Complete, Duration::ZERO, true))),
        ("quiet", Case::idle()),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(case.decide().code(), code, "case {place}: {}", case.decide());
    }
    assert_eq!(
        with(Progressing, Duration::ZERO, false).decide().to_string(),
        "its rollout is not complete: 0 of 2 pods are ready (allowed to stall for 1m)"
    );
    assert_eq!(
        with(Complete, SECOND, true).decide().to_string(),
        "ready for 1s since its rollout or its wake, the largest window is 10m"
    );
}

#[test]
fn one_that_names_no_deadline_has_ten_minutes() {
    let mut case = with(RolloutPhase::Progressing, 10 * Duration::from_secs(60) - SECOND, false);
    case.resource.rollout.as_mut().unwrap().deadline = None;
    assert_eq!(case.decide().code(), "rolling_out");
    case.now += SECOND;
    assert_eq!(case.decide().code(), "quiet");
}
