//! Whether the admission policy that keeps Scaler's key in Services' selectors is in force, as the API server answered last.

use std::time::{Duration, Instant};

/// After this the API server is asked again.
const VALID_FOR: Duration = Duration::from_secs(60);

/// The last answer, and when it came.
#[derive(Debug, Default)]
pub(crate) struct KeyPolicy {
    in_force: Option<bool>,
    answered: Option<Instant>,
}

// === impl KeyPolicy ===

impl KeyPolicy {
    /// The last answer; `None`: there was none.
    pub(crate) fn in_force(&self) -> Option<bool> {
        self.in_force
    }

    /// Whether the API server is to be asked.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.answered.is_none_or(|at| now.duration_since(at) >= VALID_FOR)
    }

    /// Takes an answer over; whether it is another one than before.
    pub(crate) fn set(&mut self, in_force: bool, now: Instant) -> bool {
        self.answered = Some(now);
        self.in_force.replace(in_force) != Some(in_force)
    }

    /// Something happened that it would have prevented.
    pub(crate) fn doubt(&mut self) {
        self.answered = None;
    }

    /// What users are told about it; empty: nothing is known.
    pub(crate) fn note(&self) -> &'static str {
        match self.in_force {
            None => "",
            Some(true) => {
                "a MutatingAdmissionPolicy keeps Scaler's key in the Services' selectors, whoever writes them"
            }
            Some(false) => {
                "the autoscaler adds Scaler's key to a Service's selector again after each server-side apply: no \
                 MutatingAdmissionPolicy for it is in force (docs/gitops.md)"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_for_a_while_and_until_something_contradicts_it() {
        let (mut policy, start) = (KeyPolicy::default(), Instant::now());
        assert!(policy.is_due(start) && policy.note().is_empty());
        assert!(policy.set(true, start) && !policy.set(true, start));
        let later = start + VALID_FOR;
        assert!(!policy.is_due(later - Duration::from_secs(1)) && policy.is_due(later));
        policy.doubt();
        assert!(policy.is_due(start));
        assert_eq!(policy.in_force(), Some(true), "it is still what was answered last");
        assert!(policy.set(false, later) && policy.note().contains("no MutatingAdmissionPolicy"));
    }
}
