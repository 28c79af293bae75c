//! Counts the intercepted Services that name this DLX, and knows for how long after the last one clients may still come.

use std::{fmt, future::pending, sync::Arc, time::Duration};

use scaler_types::duration;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// The interceptions that name this DLX, as its plugins list them.
#[derive(Debug)]
pub(crate) struct Interceptions {
    grace: Duration,
    named: watch::Sender<Named>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Named {
    /// How many do.
    now: usize,
    /// When the last one stopped.
    ceased: Option<Instant>,
}

/// Counts an interception that names this DLX until it is dropped.
#[derive(Debug)]
pub(crate) struct InterceptionGuard(Arc<Interceptions>);

// === impl Interceptions ===

impl Interceptions {
    /// None so far. `grace`: the endpoint propagation delay.
    pub(crate) fn new(grace: Duration) -> Arc<Self> {
        Arc::new(Self { grace, named: watch::Sender::default() })
    }

    /// Adds one.
    pub(crate) fn add(self: &Arc<Self>) -> InterceptionGuard {
        self.named.send_modify(|named| named.now += 1);
        InterceptionGuard(self.clone())
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.named.borrow().now
    }

    /// Returns when there has been none for the delay; at once if there never was one.
    pub(crate) async fn wait_until_over(&self) {
        let mut named = self.named.subscribe();
        loop {
            // An error: never, its sender is `self`.
            let ceased = named.wait_for(|named| named.now == 0).await.ok().and_then(|named| named.ceased);
            let Some(ceased) = ceased else { return };
            let Some(end) = ceased.checked_add(self.grace) else { return pending().await };
            #[expect(clippy::disallowed_methods, reason = "the end of the grace is the event")]
            let end = sleep_until(end);
            tokio::select! {
                biased;
                _ = named.wait_for(|named| named.now > 0) => {}
                () = end => return,
            }
        }
    }
}

impl fmt::Display for Interceptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Named { now, ceased } = *self.named.borrow();
        match (now, ceased) {
            (0, None) => f.write_str("no Service names this DLX"),
            (0, Some(ceased)) => write!(
                f,
                "the last Service stopped naming this DLX {} ago; clients have {} to follow",
                duration::short(Duration::from_secs(ceased.elapsed().as_secs())),
                duration::short(self.grace)
            ),
            (1, _) => f.write_str("1 Service still names this DLX"),
            (n, _) => write!(f, "{n} Services still name this DLX"),
        }
    }
}

// === impl InterceptionGuard ===

impl Drop for InterceptionGuard {
    fn drop(&mut self) {
        self.0.named.send_modify(|named| {
            named.now -= 1;
            named.ceased = Some(Instant::now());
        });
    }
}
