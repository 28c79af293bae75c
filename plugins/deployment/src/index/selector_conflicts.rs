//! Services whose key somebody else takes away again and again: they are left alone in the end.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// So often it is put back; then whoever takes it away has his way.
pub const OFTEN: u32 = 3;

/// What happened before that is forgotten, if nothing more came.
const FORGOTTEN: Duration = Duration::from_secs(3600);

/// How often our key was taken away, by the Service's uid.
#[derive(Debug, Default)]
pub struct Taken {
    /// Services that this process has given the key, and has not taken it from since.
    given: HashMap<String, Losses>,
}

#[derive(Debug, Default)]
struct Losses {
    led: bool,
    count: u32,
    last: Option<Instant>,
}

// === impl Taken ===

impl Taken {
    /// This process is about to add the key, or to take it away itself.
    pub fn wants(&mut self, uid: &str, led: bool) {
        if led || self.given.contains_key(uid) {
            self.given.entry(uid.to_owned()).or_default().led = led;
        }
    }

    /// The key was there, and is no longer.
    pub fn lost(&mut self, uid: &str, now: Instant) {
        let Some(losses) = self.given.get_mut(uid).filter(|losses| losses.led) else { return };
        if losses.is_over(now) {
            losses.count = 0;
        }
        losses.count += 1;
        losses.last = Some(now);
    }

    /// Whether it was taken away too often.
    pub fn is_left_alone(&self, uid: &str, now: Instant) -> bool {
        self.given.get(uid).is_some_and(|losses| losses.count >= OFTEN && !losses.is_over(now))
    }

    /// Forgets what was long ago; gives those that were left alone until now.
    pub fn forget(&mut self, now: Instant) -> Vec<String> {
        let over = self.given.iter_mut().filter(|(_, losses)| losses.count > 0 && losses.is_over(now));
        let over = over.filter_map(|(uid, losses)| {
            let often = losses.count >= OFTEN;
            losses.count = 0;
            often.then(|| uid.clone())
        });
        over.collect()
    }

    /// The Service is gone.
    pub fn is_gone(&mut self, uid: &str) {
        self.given.remove(uid);
    }
}

// === impl Losses ===

impl Losses {
    fn is_over(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now.duration_since(last) >= FORGOTTEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_times_are_enough_and_an_hour_makes_them_forgotten() {
        let (mut taken, start) = (Taken::default(), Instant::now());
        taken.lost("other", start);
        taken.wants("other", false);
        assert!(taken.given.is_empty(), "what another process led is not counted");
        taken.wants("a", true);
        for _ in 1..OFTEN {
            taken.lost("a", start);
            assert!(!taken.is_left_alone("a", start));
        }
        taken.wants("a", false);
        taken.lost("a", start);
        assert!(!taken.is_left_alone("a", start), "that was this process's own doing");
        taken.wants("a", true);
        taken.lost("a", start);
        assert!(taken.is_left_alone("a", start));
        let later = start + FORGOTTEN;
        assert!(taken.is_left_alone("a", later - Duration::from_secs(1)));
        assert!(taken.forget(later - Duration::from_secs(1)).is_empty());
        assert!(!taken.is_left_alone("a", later));
        assert_eq!(taken.forget(later), ["a"]);
        taken.lost("a", later);
        assert!(!taken.is_left_alone("a", later), "it begins anew");
        taken.is_gone("a");
        assert!(taken.given.is_empty());
    }
}
