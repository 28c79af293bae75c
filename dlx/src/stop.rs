//! The shutdown of a DLX that intercepted Services point to: it serves as before until none names it and clients have had
//! time to follow, and only then drains.
//!
//! | after the first signal | new connections |
//! |---|---|
//! | routes name it | are served; it is unready, so the leading autoscaler takes it out of them |
//! | the last one that did was changed less than `--endpoint-propagation-delay` ago | are served |
//! | otherwise, or two thirds of `--shutdown-grace` are over | are refused; what is open is brought to its end |

use std::{sync::Arc, time::Duration};

use daemon::shutdown;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::state::Interceptions;

/// The state of the shutdown.
#[derive(Debug)]
pub(crate) struct Stopping {
    /// Cancelled at the first signal: no Service should name this DLX any more.
    pub(crate) signalled: CancellationToken,
    /// Cancelled when the drain starts: open connections are brought to their end.
    pub(crate) draining: CancellationToken,
    /// The interceptions that name this DLX.
    pub(crate) interceptions: Arc<Interceptions>,
}

// === impl Stopping ===

impl Stopping {
    /// Waits for the first signal, then until no Service names this DLX and clients have followed, and starts the drain.
    /// When the signal came.
    ///
    /// `grace` is the time for all of it, the drain included. `refresh` has the plugins list everything: an interception
    /// that names this DLX may be too new for its view.
    pub(crate) async fn follow(&self, grace: Duration, refresh: impl Future<Output = ()>) -> Instant {
        self.signalled.cancelled().await;
        let signalled = Instant::now();
        let over = async {
            refresh.await;
            if self.interceptions.count() > 0 {
                tracing::info!(why = %self.interceptions, "stopping: still accepting connections until no Service names this DLX");
            }
            self.interceptions.wait_until_over().await;
        };
        match signalled.checked_add(shutdown::accepting_time(grace)) {
            None => over.await,
            Some(end) => {
                if timeout_at(end, over).await.is_err() {
                    tracing::warn!(why = %self.interceptions, "refusing new connections: two thirds of --shutdown-grace are over");
                }
            }
        }
        self.draining.cancel();
        signalled
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep_until;

    use super::*;

    const ENDPOINT_PROPAGATION_DELAY: Duration = Duration::from_secs(30);
    const GRACE: Duration = Duration::from_secs(300);

    fn stopping() -> Arc<Stopping> {
        Arc::new(Stopping {
            signalled: CancellationToken::new(),
            draining: CancellationToken::new(),
            interceptions: Interceptions::new(ENDPOINT_PROPAGATION_DELAY),
        })
    }

    /// The paused clock of the test moves on when all tasks wait.
    async fn at(begin: Instant, seconds: u64) {
        #[expect(clippy::disallowed_methods, reason = "the test moves its clock")]
        sleep_until(begin + Duration::from_secs(seconds)).await;
    }

    /// The seconds from the signal to the drain, while `interceptions` come and go.
    async fn drains(grace: Duration, routes: impl AsyncFnOnce(Instant, &Arc<Stopping>)) -> u64 {
        let (stopping, begin) = (stopping(), Instant::now());
        let drained = async {
            let signalled = stopping.follow(grace, async {}).await;
            assert!(stopping.draining.is_cancelled());
            signalled.elapsed().as_secs()
        };
        tokio::join!(drained, routes(begin, &stopping)).0
    }

    #[tokio::test(start_paused = true)]
    async fn without_interceptions_at_once() {
        let drained = drains(GRACE, async |begin, stopping| {
            at(begin, 7).await;
            assert!(!stopping.draining.is_cancelled(), "before the signal");
            stopping.signalled.cancel();
        });
        assert_eq!(drained.await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_delay_counts_from_the_end_of_the_last_interception() {
        let drained = drains(GRACE, async |begin, stopping| {
            let routes = (stopping.interceptions.add(), stopping.interceptions.add());
            stopping.signalled.cancel();
            at(begin, 5).await;
            drop(routes.0);
            assert_eq!(stopping.interceptions.to_string(), "1 Service still names this DLX");
            at(begin, 10).await;
            drop(routes.1);
            at(begin, 12).await;
            let why = stopping.interceptions.to_string();
            assert_eq!(why, "the last Service stopped naming this DLX 2s ago; clients have 30s to follow");
        });
        assert_eq!(drained.await, 40);
    }

    #[tokio::test(start_paused = true)]
    async fn an_interception_that_ended_before_the_signal_counts() {
        let drained = drains(GRACE, async |begin, stopping| {
            drop(stopping.interceptions.add());
            at(begin, 20).await;
            stopping.signalled.cancel();
        });
        assert_eq!(drained.await, 10);
        let drained = drains(GRACE, async |begin, stopping| {
            drop(stopping.interceptions.add());
            at(begin, 31).await;
            stopping.signalled.cancel();
        });
        assert_eq!(drained.await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_interception_within_the_delay_restarts_it() {
        let drained = drains(GRACE, async |begin, stopping| {
            drop(stopping.interceptions.add());
            stopping.signalled.cancel();
            at(begin, 20).await;
            let again = stopping.interceptions.add();
            at(begin, 100).await;
            drop(again);
        });
        assert_eq!(drained.await, 130);
    }

    #[tokio::test(start_paused = true)]
    async fn a_third_of_the_time_is_kept_for_the_drain() {
        for (grace, drains_at) in [(GRACE, 200), (Duration::from_secs(30), 20)] {
            let drained = drains(grace, async |begin, stopping| {
                let route = stopping.interceptions.add();
                stopping.signalled.cancel();
                at(begin, 10_000).await;
                drop(route);
            });
            assert_eq!(drained.await, drains_at);
        }
        let drained = drains(GRACE, async |begin, stopping| {
            let route = stopping.interceptions.add();
            stopping.signalled.cancel();
            at(begin, 190).await;
            drop(route);
        });
        assert_eq!(drained.await, 200, "also in the midst of the route's grace");
    }
}
