//! Makes a case that breaks a rule smaller, as long as it breaks the same.

use std::time::{Duration, Instant};

use super::{LONG_QUIET, Lane, answers::NUMBER_LINE, case::Case, compare::Finding};

/// How long smaller cases are tried.
const LONGEST: Duration = Duration::from_secs(15);

/// The smallest case found, and what is wrong in it.
pub(super) async fn shrink(lane: &Lane, mut case: Case, mut findings: Vec<Finding>) -> (Case, Vec<Finding>) {
    let Some(rule) = findings.first().map(|finding| finding.rule) else { return (case, findings) };
    let deadline = Instant::now() + LONGEST;
    loop {
        let mut smaller = None;
        for candidate in candidates(&case) {
            if Instant::now() > deadline {
                return (case, findings);
            }
            let found = lane.check(&candidate, LONG_QUIET / 5).await;
            if found.iter().any(|finding| finding.rule == rule) {
                smaller = Some((candidate, found));
                break;
            }
        }
        match smaller {
            Some(found) => (case, findings) = found,
            None => return (case, findings),
        }
    }
}

/// Cases that are a little smaller.
fn candidates(case: &Case) -> Vec<Case> {
    let mut all = Vec::new();
    let mut add = |change: &dyn Fn(&mut Case)| {
        let mut smaller = case.clone();
        change(&mut smaller);
        all.push(smaller);
    };
    if case.requests.len() > 1 {
        for at in 0..case.requests.len() {
            add(&|case| {
                case.requests.remove(at);
                if at < case.answers.len() {
                    case.answers.remove(at);
                }
            });
        }
    }
    if case.pieces.is_some() {
        add(&|case| case.pieces = None);
    }
    if case.own_port {
        add(&|case| case.own_port = false);
    }
    if case.cut.is_some() {
        add(&|case| case.cut = None);
    }
    for at in 0..case.requests.len() {
        for lines in ranges(case.requests[at].lines.len()) {
            add(&|case| drop(case.requests[at].lines.drain(lines.clone())));
        }
        for part in 0..case.requests[at].body.len() {
            add(&|case| drop(case.requests[at].body.remove(part)));
        }
    }
    for at in 0..case.answers.len() {
        let answer = &case.answers[at];
        if answer.pieces.is_some() {
            add(&|case| case.answers[at].pieces = None);
        }
        if answer.early {
            add(&|case| case.answers[at].early = false);
        }
        if answer.closes {
            add(&|case| case.answers[at].closes = false);
        }
        if !answer.after.is_empty() {
            add(&|case| case.answers[at].after.clear());
        }
        // What it answers it goes on to say.
        let is_number = |line: usize| answer.lines[line].starts_with(NUMBER_LINE.as_bytes());
        for lines in ranges(answer.lines.len()).into_iter().filter(|lines| !lines.clone().any(is_number)) {
            add(&|case| drop(case.answers[at].lines.drain(lines.clone())));
        }
        for part in 0..answer.body.len() {
            add(&|case| drop(case.answers[at].body.remove(part)));
        }
    }
    all
}

/// Halves, quarters, and so on of all lines but the first.
fn ranges(count: usize) -> Vec<std::ops::Range<usize>> {
    let mut all = Vec::new();
    let mut size = count;
    while size > 0 {
        all.extend((1..count).step_by(size).map(|from| from..(from + size).min(count)));
        size /= 2;
    }
    all
}
