//! What came of a restore.

/// What came of it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Summary {
    pub(super) given_back: usize,
    pub(super) skipped: usize,
    pub(super) failed: usize,
    /// Not tried, or not to the end.
    pub(super) left: usize,
    /// Given back at 0 replicas: their records do not say that Scaler scaled them to 0.
    pub(super) at_zero: usize,
}

// === impl Summary ===

impl Summary {
    pub(super) fn told(&self) -> String {
        let Self { given_back, skipped, failed, left, at_zero } = self;
        let mut text = format!("{given_back} given back, {failed} failed");
        if *left > 0 {
            text += &format!(", {left} left as they are");
        }
        if *at_zero > 0 {
            text += &format!(", {at_zero} of those given back are at 0 replicas (see above)");
        }
        if *skipped > 0 {
            text += &format!(", {skipped} skipped (their plugins leave nothing to be given back)");
        }
        text + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_reads() {
        let summary = Summary { given_back: 3, skipped: 1, failed: 2, left: 4, at_zero: 1 };
        assert_eq!(
            summary.told(),
            "3 given back, 2 failed, 4 left as they are, 1 of those given back are at 0 replicas (see above), 1 skipped (their plugins leave nothing to be given back)\n"
        );
    }
}
