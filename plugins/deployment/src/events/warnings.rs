//! Events about what is wrong with a workload, for as long as it is.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use scaler_types::{ResourceEvent, ResourceId, Role, Severity};
use tokio::time::{Instant, timeout_at};

use crate::{
    cluster,
    events::Events,
    index::{Store, Warning},
};

/// The last wake failed.
pub(crate) const WAKE_FAILED: &str = "WakeFailed";

/// What an object is refused for may be for want of another one that is about to come: a Deployment often stands before its
/// Service in a manifest. It is reported if it still holds then.
const SETTLE_DELAY: Duration = Duration::from_secs(3);

/// How often a warning that still holds is repeated: an Event is kept for an hour or so.
pub(crate) const REPEAT_INTERVAL: Duration = Duration::from_secs(30 * 60);

/// Warnings to be published, and when.
#[derive(Default)]
struct DueWarnings(BTreeMap<(Instant, ResourceId, Warning), bool>);

/// Every daemon logs what is wrong; the autoscaler writes it on the object, and again while it holds.
pub(crate) async fn publish_warnings(store: Arc<Store>, events: Arc<Events>, role: Role) {
    let mut changed = store.changed();
    let mut due = DueWarnings::default();
    loop {
        changed.borrow_and_update();
        let now = Instant::now();
        due.add(now, store.warnings());
        while let Some((id, warning, first)) = due.next(now) {
            let Some(object) = store.standing_warning(&id, &warning) else { continue };
            if first {
                tracing::warn!(resource = %id, reason = warning.reason, "{}", warning.message);
            }
            if role == Role::Autoscaler {
                let reason = warning.reason.to_owned();
                let report =
                    ResourceEvent { severity: Severity::Warning, reason, message: warning.message.clone() };
                if let Err(error) = events.write(&object, &report).await {
                    tracing::warn!(resource = %id, error = cluster::describe_error(&error), "failed to write an Event");
                }
            }
            due.again(now, id, warning);
        }
        // Closed never: `store` holds it.
        match due.first() {
            // Time is the event here: it still holds, or it is still visible.
            Some(at) => drop(timeout_at(at, changed.changed()).await),
            None => drop(changed.changed().await),
        }
    }
}

/// After what time a warning is published, if it still holds.
fn settle_delay(warning: &Warning) -> Duration {
    match warning.reason {
        "InterceptionRefused" | "HostRefused" => SETTLE_DELAY,
        // The daemon that saw the wake fail reported it.
        WAKE_FAILED => REPEAT_INTERVAL,
        _ => Duration::ZERO,
    }
}

// === impl DueWarnings ===

impl DueWarnings {
    /// Adds new warnings. One that was published before and did not hold in between starts again.
    fn add(&mut self, now: Instant, warnings: Vec<(ResourceId, Warning)>) {
        for (id, warning) in warnings {
            self.0.retain(|(_, of, known), _| (of, known) != (&id, &warning));
            self.0.insert((now + settle_delay(&warning), id, warning), true);
        }
    }

    /// Takes one whose time has come, and whether it is the first time.
    fn next(&mut self, now: Instant) -> Option<(ResourceId, Warning, bool)> {
        let entry = self.0.first_entry().filter(|entry| entry.key().0 <= now)?;
        let ((_, id, warning), first) = entry.remove_entry();
        Some((id, warning, first))
    }

    /// Repeats it later, if it still holds.
    fn again(&mut self, now: Instant, id: ResourceId, warning: Warning) {
        self.0.insert((now + REPEAT_INTERVAL, id, warning), false);
    }

    fn first(&self) -> Option<Instant> {
        self.0.first_key_value().map(|((at, ..), _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web(reason: &'static str) -> (ResourceId, Warning) {
        (ResourceId::new("shop", "web"), Warning { reason, message: "said".to_owned() })
    }

    #[tokio::test]
    async fn a_warning_that_may_pass_is_published_late_and_a_lasting_one_repeatedly() {
        let start = Instant::now();
        let mut due = DueWarnings::default();
        due.add(start, vec![web("InterceptionRefused"), web("InvalidAnnotation")]);
        let (id, warning, first) = due.next(start).unwrap();
        assert_eq!((warning.reason, first), ("InvalidAnnotation", true));
        due.again(start, id, warning);
        assert!(due.next(start).is_none());
        let settled = due.first().unwrap();
        assert!(settled > start && settled < start + REPEAT_INTERVAL);
        assert_eq!(due.next(settled).unwrap().1.reason, "InterceptionRefused");
        let (_, warning, first) = due.next(start + REPEAT_INTERVAL).unwrap();
        assert_eq!((warning.reason, first), ("InvalidAnnotation", false));
        assert!(due.first().is_none());
    }

    #[tokio::test]
    async fn a_failed_wake_is_published_again_only_after_the_repeat_interval() {
        let start = Instant::now();
        let mut due = DueWarnings::default();
        due.add(start, vec![web("WakeFailed")]);
        assert!(due.next(start + REPEAT_INTERVAL / 2).is_none());
        assert!(due.next(start + REPEAT_INTERVAL).is_some());
    }
}
