//! The result of a restore.

/// The counts of a restore.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Summary {
    pub(super) restored: usize,
    pub(super) skipped: usize,
    pub(super) failed: usize,
    /// Not tried, or not to the end.
    pub(super) remaining: usize,
    /// Restored at 0 replicas: their records do not say that Scaler scaled them to 0.
    pub(super) at_zero: usize,
}

// === impl Summary ===

impl Summary {
    pub(super) fn render(&self) -> String {
        let Self { restored, skipped, failed, remaining, at_zero } = self;
        let mut text = format!("{restored} restored, {failed} failed");
        if *remaining > 0 {
            text += &format!(", {remaining} unchanged");
        }
        if *at_zero > 0 {
            text += &format!(", {at_zero} of the restored are at 0 replicas (see above)");
        }
        if *skipped > 0 {
            text += &format!(", {skipped} skipped (their plugins have nothing to restore)");
        }
        text + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_reads() {
        let summary = Summary { restored: 3, skipped: 1, failed: 2, remaining: 4, at_zero: 1 };
        assert_eq!(
            summary.render(),
            "3 restored, 2 failed, 4 unchanged, 1 of the restored are at 0 replicas (see above), 1 skipped (their plugins have nothing to restore)\n"
        );
    }
}
