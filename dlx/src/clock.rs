//! Milliseconds since this process started; not comparable with another process's.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

static START: OnceLock<Instant> = OnceLock::new();

/// Milliseconds since the first call.
pub(crate) fn now_ms() -> u64 {
    let start = START.get_or_init(Instant::now);
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The time since a value of [`now_ms`].
pub(crate) fn since(ms: u64) -> Duration {
    Duration::from_millis(now_ms().saturating_sub(ms))
}
