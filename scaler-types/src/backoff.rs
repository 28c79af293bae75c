//! Pauses between attempts: they grow, and are spread at random, so that processes that failed together do not retry
//! together.
//!
//! ```
//! # use std::time::Duration;
//! # use scaler_types::backoff::Backoff;
//! # async fn connect() -> Result<(), String> { Ok(()) }
//! # async fn run() {
//! let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
//! while connect().await.is_err() {
//!     backoff.wait().await;
//! }
//! # }
//! ```

use std::{
    cell::Cell,
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

/// A pause is shortened by up to this part of it.
const JITTER: u32 = 5;

/// From here on a pause is a number to be read in a log: it stays in whole milliseconds.
const LOGGED: Duration = Duration::from_millis(100);

/// Pauses that double from a first one to a longest one, each shortened by up to a fifth at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

thread_local! {
    /// The state of a xorshift generator, which stays at 0.
    static RANDOM: Cell<u64> = Cell::new(RandomState::new().hash_one(0) | 1);
}

/// Makes the jitter of this thread's pauses the same in every run; 0 means no jitter. For tests.
pub fn seed_jitter(seed: u64) {
    RANDOM.set(seed);
}

fn random() -> u16 {
    let mut state = RANDOM.get();
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    RANDOM.set(state);
    // The high bits are the better ones.
    (state >> 48) as u16
}

// === impl Backoff ===

impl Backoff {
    /// No attempt has failed yet. `longest` bounds every pause.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// An attempt failed: the pause before the next one.
    pub fn next_pause(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.pause_after(self.failures)
    }

    /// The pause after so many failures in a row, at least one.
    pub fn pause_after(&self, failures: u32) -> Duration {
        let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        let pause = self.first.saturating_mul(factor).min(self.longest);
        let mut jitter = (pause / JITTER).mul_f64(f64::from(random()) / f64::from(u16::MAX));
        if pause >= LOGGED {
            jitter -= Duration::from_nanos(u64::from(jitter.subsec_nanos() % 1_000_000));
        }
        pause - jitter
    }

    /// An attempt succeeded: the next pause is the first one.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// An attempt failed: waits for the pause before the next one.
    #[expect(clippy::disallowed_methods, reason = "what failed is tried again after a time")]
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next_pause()).await;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pauses(seed: u64) -> Vec<Duration> {
        seed_jitter(seed);
        let mut backoff = Backoff::new(SECOND, 10 * SECOND);
        (0..6).map(|_| backoff.next_pause()).collect()
    }

    #[test]
    fn doubles_up_to_the_longest_and_begins_again() {
        assert_eq!(pauses(0), [1, 2, 4, 8, 10, 10].map(|seconds| SECOND * seconds));
        let mut backoff = Backoff::new(SECOND, 10 * SECOND);
        assert_eq!([backoff.next_pause(), backoff.next_pause()], [SECOND, 2 * SECOND]);
        backoff.reset();
        assert_eq!([backoff.next_pause(), backoff.pause_after(3)], [SECOND, 4 * SECOND]);
    }

    #[test]
    fn the_jitter_is_its_seed_s() {
        assert_eq!(pauses(7), pauses(7));
        assert_ne!(pauses(7), pauses(8));
    }

    #[test]
    fn threads_do_not_pause_in_step() {
        let draw = || std::thread::spawn(|| Backoff::new(SECOND, SECOND).next_pause()).join().unwrap();
        let drawn: std::collections::HashSet<_> = (0..8).map(|_| draw()).collect();
        assert!(drawn.len() > 1, "{drawn:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_the_pause() {
        seed_jitter(0);
        let began = tokio::time::Instant::now();
        let mut backoff = Backoff::new(SECOND, 10 * SECOND);
        backoff.wait().await;
        backoff.wait().await;
        assert_eq!(began.elapsed(), 3 * SECOND);
    }

    proptest! {
        #[test]
        fn a_pause_is_within_a_fifth_of_its_base(first in 1..1_000_000_u64, longest in 1..1_000_000_u64, failures in 0..u32::MAX, seed: u64) {
            let (first, longest) = (Duration::from_millis(first), Duration::from_millis(longest));
            let backoff = Backoff::new(first, longest);
            seed_jitter(0);
            let base = backoff.pause_after(failures);
            seed_jitter(seed);
            let pause = backoff.pause_after(failures);
            prop_assert!(pause > Duration::ZERO && pause <= base && base <= longest);
            prop_assert!(pause >= base - base / JITTER);
        }
    }
}
