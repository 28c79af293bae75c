//! Services whose selector key another writer keeps removing: they are not intercepted for a while.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// So often it may be removed; then the Service is not intercepted for a while.
pub(crate) const MAX_LOSSES: u32 = 3;

/// Earlier removals are forgotten after this, if no more came.
const SUSPENSION: Duration = Duration::from_secs(3600);

/// How often the key was removed, by the Service's uid.
#[derive(Debug, Default)]
pub(crate) struct SelectorConflicts {
    /// Services on which this process has set the key, and has not removed it since.
    services: HashMap<String, Losses>,
}

#[derive(Debug, Default)]
struct Losses {
    expected: bool,
    count: u32,
    last: Option<Instant>,
}

// === impl SelectorConflicts ===

impl SelectorConflicts {
    /// This process is about to add the key, or to take it away itself.
    pub(crate) fn set_expected(&mut self, uid: &str, expected: bool) {
        if expected || self.services.contains_key(uid) {
            self.services.entry(uid.to_owned()).or_default().expected = expected;
        }
    }

    /// The key was there, and is no longer; whether another writer removed it.
    pub(crate) fn record_loss(&mut self, uid: &str, now: Instant) -> bool {
        let Some(losses) = self.services.get_mut(uid).filter(|losses| losses.expected) else { return false };
        if losses.is_over(now) {
            losses.count = 0;
        }
        losses.count += 1;
        losses.last = Some(now);
        true
    }

    /// Others can no longer remove the key.
    pub(crate) fn forget_losses(&mut self) {
        self.services.values_mut().for_each(|losses| losses.count = 0);
    }

    /// Whether it was taken away too often.
    pub(crate) fn is_suspended(&self, uid: &str, now: Instant) -> bool {
        self.services.get(uid).is_some_and(|losses| losses.count >= MAX_LOSSES && !losses.is_over(now))
    }

    /// Forgets what was long ago; gives those that were left alone until now.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<String> {
        let over = self.services.iter_mut().filter(|(_, losses)| losses.count > 0 && losses.is_over(now));
        let over = over.filter_map(|(uid, losses)| {
            let often = losses.count >= MAX_LOSSES;
            losses.count = 0;
            often.then(|| uid.clone())
        });
        over.collect()
    }

    /// The Service is gone.
    pub(crate) fn remove(&mut self, uid: &str) {
        self.services.remove(uid);
    }
}

// === impl Losses ===

impl Losses {
    fn is_over(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now.duration_since(last) >= SUSPENSION)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_times_are_enough_and_an_hour_makes_them_forgotten() {
        let (mut conflicts, start) = (SelectorConflicts::default(), Instant::now());
        conflicts.record_loss("other", start);
        conflicts.set_expected("other", false);
        assert!(conflicts.services.is_empty(), "what another process intercepted is not counted");
        conflicts.set_expected("a", true);
        for _ in 1..MAX_LOSSES {
            conflicts.record_loss("a", start);
            assert!(!conflicts.is_suspended("a", start));
        }
        conflicts.set_expected("a", false);
        conflicts.record_loss("a", start);
        assert!(!conflicts.is_suspended("a", start), "that was this process's own doing");
        conflicts.set_expected("a", true);
        conflicts.record_loss("a", start);
        assert!(conflicts.is_suspended("a", start));
        let later = start + SUSPENSION;
        assert!(conflicts.is_suspended("a", later - Duration::from_secs(1)));
        assert!(conflicts.expire(later - Duration::from_secs(1)).is_empty());
        assert!(!conflicts.is_suspended("a", later));
        assert_eq!(conflicts.expire(later), ["a"]);
        conflicts.record_loss("a", later);
        assert!(!conflicts.is_suspended("a", later), "it begins anew");
        for _ in 1..MAX_LOSSES {
            assert!(conflicts.record_loss("a", later));
        }
        assert!(conflicts.is_suspended("a", later));
        conflicts.forget_losses();
        assert!(!conflicts.is_suspended("a", later));
        conflicts.remove("a");
        assert!(conflicts.services.is_empty());
    }
}
