//! The end of a DLX that others lead clients to: it goes on as before until no route names it and everybody has had the time
//! to follow, and only then drains.
//!
//! | after the first signal | new connections |
//! |---|---|
//! | routes name it | are served; it is unready, so the leading autoscaler takes it out of them |
//! | the last one that did was changed less than `--endpoint-propagation-delay` ago | are served |
//! | otherwise, or two thirds of `--shutdown-grace` are over | are refused; what is open is brought to its end |

use std::{fmt, future::pending, sync::Arc, time::Duration};

use daemon::shutdown;
use scaler_types::duration;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout_at},
};

use crate::dlx::Dlx;

/// Routes that name this DLX, as far as its plugins tell.
#[derive(Debug)]
pub struct Routes {
    grace: Duration,
    named: watch::Sender<Named>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Named {
    /// So many do.
    now: usize,
    /// When one last ceased to.
    ceased: Option<Instant>,
}

/// A route that names this DLX, until it is dropped.
#[derive(Debug)]
pub struct LeadsHere(Arc<Routes>);

// === impl Routes ===

impl Routes {
    /// None so far. `grace`: how long whoever connects may take to follow a change of one.
    pub fn new(grace: Duration) -> Arc<Self> {
        Arc::new(Self { grace, named: watch::Sender::default() })
    }

    /// One more.
    pub fn one(self: &Arc<Self>) -> LeadsHere {
        self.named.send_modify(|named| named.now += 1);
        LeadsHere(self.clone())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.named.borrow().now
    }

    /// Returns when there has been none for the grace; at once where there never was one.
    async fn over(&self) {
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

impl fmt::Display for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Named { now, ceased } = *self.named.borrow();
        match (now, ceased) {
            (0, None) => f.write_str("no route leads here"),
            (0, Some(ceased)) => write!(
                f,
                "the last route was led elsewhere {} ago, and whoever connects has {} to follow",
                duration::short(Duration::from_secs(ceased.elapsed().as_secs())),
                duration::short(self.grace)
            ),
            (1, _) => f.write_str("1 route still leads here"),
            (n, _) => write!(f, "{n} routes still lead here"),
        }
    }
}

// === impl LeadsHere ===

impl Drop for LeadsHere {
    fn drop(&mut self) {
        self.0.named.send_modify(|named| {
            named.now -= 1;
            named.ceased = Some(Instant::now());
        });
    }
}

/// Waits for the first signal, then until nobody is led here any more, and has the DLX drain. When the signal came.
///
/// `grace` is the time for all of it, the drain included.
pub async fn follow(dlx: &Dlx, grace: Duration) -> Instant {
    dlx.stopping.cancelled().await;
    let signalled = Instant::now();
    let over = async {
        if dlx.service_ports.is_some() {
            // What this DLX sees may be older than a route that names it.
            dlx.refresh().await;
        }
        if dlx.routes.count() > 0 {
            tracing::info!(why = %dlx.routes, "stopping: connections are taken until nobody is led here");
        }
        dlx.routes.over().await;
    };
    match signalled.checked_add(shutdown::accepting_time(grace)) {
        None => over.await,
        Some(end) => {
            if timeout_at(end, over).await.is_err() {
                tracing::warn!(why = %dlx.routes, "two thirds of --shutdown-grace are over: new connections are refused");
            }
        }
    }
    dlx.draining.cancel();
    signalled
}

#[cfg(test)]
mod tests {
    use daemon::wakes::Wakes;
    use scaler_types::protocol::Rules;
    use tokio::{runtime::Handle, time::sleep_until};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{hold::Limits, shared::Shared};

    const ENDPOINT_PROPAGATION_DELAY: Duration = Duration::from_secs(30);
    const GRACE: Duration = Duration::from_secs(300);

    fn dlx() -> Arc<Dlx> {
        let shared =
            Shared::new(Rules::default(), Handle::current(), Limits { requests: 1, bytes: 1 }, Wakes::new(1));
        let mut dlx = Dlx::new(shared, "test", CancellationToken::new());
        dlx.routes = Routes::new(ENDPOINT_PROPAGATION_DELAY);
        Arc::new(dlx)
    }

    /// The clock of the test moves on when nobody has anything to do.
    async fn at(begin: Instant, seconds: u64) {
        #[expect(clippy::disallowed_methods, reason = "the test moves its clock")]
        sleep_until(begin + Duration::from_secs(seconds)).await;
    }

    /// The seconds after the signal at which it drains, while `routes` come and go.
    async fn drains(grace: Duration, routes: impl AsyncFnOnce(Instant, &Arc<Dlx>)) -> u64 {
        let (dlx, begin) = (dlx(), Instant::now());
        let drained = async {
            let signalled = follow(&dlx, grace).await;
            assert!(dlx.draining.is_cancelled());
            signalled.elapsed().as_secs()
        };
        tokio::join!(drained, routes(begin, &dlx)).0
    }

    #[tokio::test(start_paused = true)]
    async fn without_routes_at_once() {
        let drained = drains(GRACE, async |begin, dlx| {
            at(begin, 7).await;
            assert!(!dlx.draining.is_cancelled(), "before the signal");
            dlx.stopping.cancel();
        });
        assert_eq!(drained.await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_grace_counts_from_the_last_routes_end() {
        let drained = drains(GRACE, async |begin, dlx| {
            let routes = (dlx.routes.one(), dlx.routes.one());
            dlx.stopping.cancel();
            at(begin, 5).await;
            drop(routes.0);
            assert_eq!(dlx.routes.to_string(), "1 route still leads here");
            at(begin, 10).await;
            drop(routes.1);
            at(begin, 12).await;
            let why = dlx.routes.to_string();
            assert_eq!(
                why,
                "the last route was led elsewhere 2s ago, and whoever connects has 30s to follow"
            );
        });
        assert_eq!(drained.await, 40);
    }

    #[tokio::test(start_paused = true)]
    async fn what_ended_before_the_signal_counts_too() {
        let drained = drains(GRACE, async |begin, dlx| {
            drop(dlx.routes.one());
            at(begin, 20).await;
            dlx.stopping.cancel();
        });
        assert_eq!(drained.await, 10);
        let drained = drains(GRACE, async |begin, dlx| {
            drop(dlx.routes.one());
            at(begin, 31).await;
            dlx.stopping.cancel();
        });
        assert_eq!(drained.await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_comes_back_within_the_grace_begins_it_anew() {
        let drained = drains(GRACE, async |begin, dlx| {
            drop(dlx.routes.one());
            dlx.stopping.cancel();
            at(begin, 20).await;
            let again = dlx.routes.one();
            at(begin, 100).await;
            drop(again);
        });
        assert_eq!(drained.await, 130);
    }

    #[tokio::test(start_paused = true)]
    async fn a_third_of_the_time_is_kept_for_the_drain() {
        for (grace, drains_at) in [(GRACE, 200), (Duration::from_secs(30), 20)] {
            let drained = drains(grace, async |begin, dlx| {
                let route = dlx.routes.one();
                dlx.stopping.cancel();
                at(begin, 10_000).await;
                drop(route);
            });
            assert_eq!(drained.await, drains_at);
        }
        let drained = drains(GRACE, async |begin, dlx| {
            let route = dlx.routes.one();
            dlx.stopping.cancel();
            at(begin, 190).await;
            drop(route);
        });
        assert_eq!(drained.await, 200, "also in the midst of the route's grace");
    }
}
