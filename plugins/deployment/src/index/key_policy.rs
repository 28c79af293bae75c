//! Whether the admission policy that keeps Scaler's key in Services' selectors is in force, as the API server answered last.

use std::time::{Duration, Instant};

/// After this the API server is asked again, and an answer is old.
const VALID_FOR: Duration = Duration::from_secs(60);

/// The last answer, and when it came.
#[derive(Debug, Default)]
pub(crate) struct KeyPolicy {
    in_force: Option<bool>,
    answered: Option<Instant>,
    /// When a dry run was last sent, or a write answered.
    checked: Option<Instant>,
    /// How many dry runs there were.
    checks: usize,
}

// === impl KeyPolicy ===

impl KeyPolicy {
    /// Whether it was not in force a moment ago.
    pub(crate) fn is_absent(&self, now: Instant) -> bool {
        self.in_force == Some(false) && !is_old(self.answered, now)
    }

    /// Whether the API server is to be asked.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        is_old(self.checked, now)
    }

    /// The API server is being asked; how often it was before.
    pub(crate) fn record_check(&mut self, now: Instant) -> usize {
        self.checked = Some(now);
        self.checks += 1;
        self.checks - 1
    }

    /// Takes an answer over; whether it is another one than before.
    pub(crate) fn set(&mut self, in_force: bool, now: Instant) -> bool {
        (self.answered, self.checked) = (Some(now), Some(now));
        self.in_force.replace(in_force) != Some(in_force)
    }

    /// Something happened that it prevents while it is in force.
    pub(crate) fn doubt(&mut self) {
        if self.in_force == Some(true) {
            self.checked = None;
        }
    }

    /// What users are told about it; empty: nothing is known.
    pub(crate) fn note(&self) -> &'static str {
        match self.in_force {
            None => "",
            Some(true) => {
                "a MutatingAdmissionPolicy keeps Scaler's key in the Services' selectors, also when another tool applies them"
            }
            Some(false) => {
                "the autoscaler adds Scaler's key to a Service's selector again after each server-side apply: no \
                 MutatingAdmissionPolicy for it is in force (docs/gitops.md)"
            }
        }
    }
}

fn is_old(at: Option<Instant>, now: Instant) -> bool {
    at.is_none_or(|at| now.duration_since(at) >= VALID_FOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_for_a_while_and_until_something_contradicts_it() {
        let (mut policy, start) = (KeyPolicy::default(), Instant::now());
        policy.doubt();
        assert!(policy.is_due(start) && !policy.is_absent(start) && policy.note().is_empty());
        assert!(policy.set(true, start) && !policy.set(true, start));
        let later = start + VALID_FOR;
        let just_before = later - Duration::from_secs(1);
        assert!(!policy.is_due(just_before) && policy.is_due(later) && !policy.is_absent(start));
        policy.doubt();
        assert!(policy.is_due(start));
        assert!(policy.note().contains("keeps Scaler's key"), "it is still what was answered last");
        assert!(policy.set(false, start) && policy.note().contains("no MutatingAdmissionPolicy"));
        assert!(policy.is_absent(just_before) && !policy.is_absent(later));
        policy.doubt();
        assert!(!policy.is_due(just_before), "without it the key is lost at each apply");
    }

    /// A webhook with side effects fails every dry run.
    #[test]
    fn a_dry_run_without_an_answer_is_not_repeated_at_once_and_changes_nothing() {
        let (mut policy, start) = (KeyPolicy::default(), Instant::now());
        assert_eq!((policy.record_check(start), policy.is_due(start)), (0, false));
        policy.set(false, start);
        let later = start + VALID_FOR;
        assert!(policy.is_due(later));
        assert_eq!(policy.record_check(later), 1);
        assert!(!policy.is_due(later) && !policy.is_absent(later), "the next write asks the policy again");
        assert!(policy.note().contains("no MutatingAdmissionPolicy"));
    }
}
