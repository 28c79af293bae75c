//! Telling owners what is wrong on their objects, for as long as it is.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use scaler_types::{ResourceEvent, ResourceId, Role, Severity};
use tokio::time::{Instant, timeout_at};

use crate::{
    cluster,
    events::Events,
    index::{Complaint, Store},
};

/// The last wake failed.
pub const WAKE_FAILED: &str = "WakeFailed";

/// What an object is refused for may be for want of another one that is about to come: a Deployment often stands before its
/// Service in a manifest. It is told if it still holds then.
const SETTLES: Duration = Duration::from_secs(3);

/// Of what holds owners are told again this often: an Event is kept for an hour or so.
pub const TOLD_AGAIN: Duration = Duration::from_secs(30 * 60);

/// What waits to be told, and when.
#[derive(Default)]
struct Due(BTreeMap<(Instant, ResourceId, Complaint), bool>);

/// Every daemon logs what is wrong; the autoscaler writes it on the object, and again while it holds.
pub async fn follow(store: Arc<Store>, events: Arc<Events>, role: Role) {
    let mut changed = store.changed();
    let mut due = Due::default();
    loop {
        changed.borrow_and_update();
        let now = Instant::now();
        due.add(now, store.complaints());
        while let Some((id, complaint, first)) = due.next(now) {
            let Some(object) = store.holds(&id, &complaint) else { continue };
            if first {
                tracing::warn!(resource = %id, reason = complaint.reason, "{}", complaint.message);
            }
            if role == Role::Autoscaler {
                let reason = complaint.reason.to_owned();
                let report =
                    ResourceEvent { severity: Severity::Warning, reason, message: complaint.message.clone() };
                if let Err(error) = events.write(&object, &report).await {
                    tracing::warn!(resource = %id, error = cluster::told(&error), "cannot write an Event on it");
                }
            }
            due.again(now, id, complaint);
        }
        // Closed never: `store` holds it.
        match due.first() {
            // Time is the event here: it still holds, or it still is there for whoever looks.
            Some(at) => drop(timeout_at(at, changed.changed()).await),
            None => drop(changed.changed().await),
        }
    }
}

/// After what time something is told, if it still holds.
fn settles(complaint: &Complaint) -> Duration {
    match complaint.reason {
        "RouteRefused" | "HostRefused" => SETTLES,
        // Whoever saw the wake fail told it.
        WAKE_FAILED => TOLD_AGAIN,
        _ => Duration::ZERO,
    }
}

// === impl Due ===

impl Due {
    /// These are new. What was told of the same and held no longer in between starts anew.
    fn add(&mut self, now: Instant, complaints: Vec<(ResourceId, Complaint)>) {
        for (id, complaint) in complaints {
            self.0.retain(|(_, of, known), _| (of, known) != (&id, &complaint));
            self.0.insert((now + settles(&complaint), id, complaint), true);
        }
    }

    /// Takes one whose time has come, and whether it is told for the first time.
    fn next(&mut self, now: Instant) -> Option<(ResourceId, Complaint, bool)> {
        let entry = self.0.first_entry().filter(|entry| entry.key().0 <= now)?;
        let ((_, id, complaint), first) = entry.remove_entry();
        Some((id, complaint, first))
    }

    /// To be told again later, if it still holds.
    fn again(&mut self, now: Instant, id: ResourceId, complaint: Complaint) {
        self.0.insert((now + TOLD_AGAIN, id, complaint), false);
    }

    fn first(&self) -> Option<Instant> {
        self.0.first_key_value().map(|((at, ..), _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(reason: &'static str) -> (ResourceId, Complaint) {
        (ResourceId::new("shop", "web"), Complaint { reason, message: "said".to_owned() })
    }

    #[tokio::test]
    async fn what_may_pass_is_told_after_a_while_and_what_holds_again_and_again() {
        let start = Instant::now();
        let mut due = Due::default();
        due.add(start, vec![one("RouteRefused"), one("InvalidAnnotation")]);
        let (id, complaint, first) = due.next(start).unwrap();
        assert_eq!((complaint.reason, first), ("InvalidAnnotation", true));
        due.again(start, id, complaint);
        assert!(due.next(start).is_none());
        let settled = due.first().unwrap();
        assert!(settled > start && settled < start + TOLD_AGAIN);
        assert_eq!(due.next(settled).unwrap().1.reason, "RouteRefused");
        let (_, complaint, first) = due.next(start + TOLD_AGAIN).unwrap();
        assert_eq!((complaint.reason, first), ("InvalidAnnotation", false));
        assert!(due.first().is_none());
    }

    #[tokio::test]
    async fn a_failed_wake_was_told_by_who_saw_it_and_is_told_again_while_it_is_the_last() {
        let start = Instant::now();
        let mut due = Due::default();
        due.add(start, vec![one("WakeFailed")]);
        assert!(due.next(start + TOLD_AGAIN / 2).is_none());
        assert!(due.next(start + TOLD_AGAIN).is_some());
    }
}
