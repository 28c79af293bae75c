//! Events about what is wrong with a workload, for as long as it is.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use scaler_types::{EventReason, ResourceId, Role};
use tokio::time::{Instant, timeout_at};

use crate::{
    cluster,
    events::{
        Events,
        reasons::{HOST_REFUSED, INTERCEPTION_REFUSED},
    },
    index::{Store, Warning},
};

/// The last wake failed: as the daemon that saw it publishes it.
pub(crate) const WAKE_FAILED: EventReason = EventReason::warning("WakeFailed");

/// What an object is refused for may be for want of another one that is about to come: a Deployment often stands before its
/// Service in a manifest. It is reported if it still holds then.
const SETTLE_DELAY: Duration = Duration::from_secs(3);

/// How often a warning that still holds is repeated: an Event is kept for an hour or so.
pub(crate) const REPEAT_INTERVAL: Duration = Duration::from_secs(30 * 60);

/// A warning, and what it is about.
type Subject = Arc<(ResourceId, Warning)>;

/// Warnings to be published, and when.
#[derive(Default)]
struct DueWarnings {
    in_order: BTreeSet<(Instant, Subject)>,
    /// When each is due, and whether that is the first time.
    due: HashMap<Subject, (Instant, bool)>,
}

/// Every daemon logs what is wrong; the autoscaler writes it on the object, and again while it holds.
pub(crate) async fn publish_warnings(store: Arc<Store>, events: Arc<Events>, role: Role) {
    let mut changed = store.changed();
    let mut due = DueWarnings::default();
    loop {
        changed.borrow_and_update();
        let now = Instant::now();
        due.add(now, store.warnings());
        while let Some((subject, first)) = due.next(now) {
            let (id, warning) = &*subject;
            let Some(object) = store.standing_warning(id, warning) else { continue };
            if first {
                tracing::warn!(resource = %id, reason = warning.reason.name(), "{}", warning.message);
            }
            if role == Role::Autoscaler {
                let event = warning.reason.event(&warning.message);
                if let Err(error) = events.write(&object, &event).await {
                    tracing::warn!(resource = %id, error = cluster::describe_error(&error), "failed to write an Event");
                }
            }
            due.again(now, subject);
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
        INTERCEPTION_REFUSED | HOST_REFUSED => SETTLE_DELAY,
        // The daemon that saw the wake fail reported it.
        WAKE_FAILED => REPEAT_INTERVAL,
        _ => Duration::ZERO,
    }
}

// === impl DueWarnings ===

impl DueWarnings {
    /// Adds new warnings. One that was published before and did not hold in between starts again.
    fn add(&mut self, now: Instant, warnings: Vec<(ResourceId, Warning)>) {
        for subject in warnings.into_iter().map(Arc::new) {
            self.insert(now + settle_delay(&subject.1), subject, true);
        }
    }

    /// Takes one whose time has come, and whether it is the first time.
    fn next(&mut self, now: Instant) -> Option<(Subject, bool)> {
        self.first().filter(|at| *at <= now)?;
        let (_, subject) = self.in_order.pop_first()?;
        let (_, first) = self.due.remove(&subject)?;
        Some((subject, first))
    }

    /// Repeats it later, if it still holds.
    fn again(&mut self, now: Instant, subject: Subject) {
        self.insert(now + REPEAT_INTERVAL, subject, false);
    }

    fn first(&self) -> Option<Instant> {
        self.in_order.first().map(|(at, _)| *at)
    }

    fn insert(&mut self, at: Instant, subject: Subject, first: bool) {
        if let Some((before, _)) = self.due.insert(subject.clone(), (at, first)) {
            self.in_order.remove(&(before, subject.clone()));
        }
        self.in_order.insert((at, subject));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::reasons::INVALID_ANNOTATION;

    fn web(reason: EventReason) -> (ResourceId, Warning) {
        (ResourceId::new("shop", "web"), Warning { reason, message: "said".to_owned() })
    }

    #[tokio::test]
    async fn a_warning_that_may_pass_is_published_late_and_a_lasting_one_repeatedly() {
        let start = Instant::now();
        let mut due = DueWarnings::default();
        due.add(start, vec![web(INTERCEPTION_REFUSED), web(INVALID_ANNOTATION)]);
        let (subject, first) = due.next(start).unwrap();
        assert_eq!((subject.1.reason, first), (INVALID_ANNOTATION, true));
        due.again(start, subject);
        assert!(due.next(start).is_none());
        let settled = due.first().unwrap();
        assert!(settled > start && settled < start + REPEAT_INTERVAL);
        assert_eq!(due.next(settled).unwrap().0.1.reason, INTERCEPTION_REFUSED);
        let (subject, first) = due.next(start + REPEAT_INTERVAL).unwrap();
        assert_eq!((subject.1.reason, first), (INVALID_ANNOTATION, false));
        assert!(due.first().is_none());
    }

    #[tokio::test]
    async fn a_warning_that_returns_starts_again() {
        let start = Instant::now();
        let mut due = DueWarnings::default();
        due.add(start, vec![web(INVALID_ANNOTATION)]);
        let (subject, _) = due.next(start).unwrap();
        due.again(start, subject);
        due.add(start, vec![web(INVALID_ANNOTATION)]);
        assert!(due.next(start).unwrap().1, "it did not hold in between");
        assert!(due.first().is_none());
    }

    #[tokio::test]
    async fn many_warnings_take_no_quadratic_time() {
        // Quadratic, it would take longer than a test may.
        let start = Instant::now();
        let mut due = DueWarnings::default();
        let warnings = |reason| {
            let id = |number: usize| ResourceId::new("shop", number.to_string());
            (0..100_000).map(move |number| (id(number), web(reason).1)).collect()
        };
        due.add(start, warnings(INVALID_ANNOTATION));
        due.add(start, warnings(INVALID_ANNOTATION));
        assert_eq!(std::iter::from_fn(|| due.next(start)).count(), 100_000);
    }

    #[tokio::test]
    async fn a_failed_wake_is_published_again_only_after_the_repeat_interval() {
        let start = Instant::now();
        let mut due = DueWarnings::default();
        due.add(start, vec![web(WAKE_FAILED)]);
        assert!(due.next(start + REPEAT_INTERVAL / 2).is_none());
        assert!(due.next(start + REPEAT_INTERVAL).is_some());
    }
}
