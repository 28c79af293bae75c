//! Waiting for something outside this process, which cannot report that it happened.

use std::{future::Future, time::Duration};

use tokio::time::Instant;

use crate::kubernetes;

/// How long anything may take before a test gives up. Far above what is needed: the machine may be busy.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// The same in a cluster that is not ours: it pulls images, probes by whole seconds, and backs off for minutes.
const EXISTING_CLUSTER_TIMEOUT: Duration = Duration::from_secs(300);

/// How long anything may take where the tests run.
pub fn wait_timeout() -> Duration {
    if kubernetes::kubeconfig().is_some() { EXISTING_CLUSTER_TIMEOUT } else { WAIT_TIMEOUT }
}

/// Looks every 10 ms until `look` finds something.
///
/// # Panics
///
/// After [`WAIT_TIMEOUT`] (five minutes with `SCALER_E2E_KUBECONFIG`), with `what` was waited for and the last thing `look` said of it.
pub async fn until<T, F: Future<Output = Result<T, String>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let timeout = wait_timeout();
    let deadline = Instant::now() + timeout;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(why) => {
                assert!(Instant::now() < deadline, "waited {timeout:?} for {what}: {why}");
                pause(Duration::from_millis(10)).await;
            }
        }
    }
}

/// Lets time pass, where time itself is what a test is about.
#[expect(
    clippy::disallowed_methods,
    reason = "a load generator's pauses, and looking at other processes' state"
)]
pub async fn pause(duration: Duration) {
    tokio::time::sleep(duration).await;
}
