//! Waiting for something outside this process, which cannot tell that it happened.

use std::{future::Future, time::Duration};

use tokio::time::Instant;

use crate::kubernetes;

/// How long anything may take before a test gives up. Far above what is needed: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The same in a cluster that is not ours: it pulls images, probes by whole seconds, and backs off for minutes.
const PATIENCE_ELSEWHERE: Duration = Duration::from_secs(300);

/// How long anything may take where the tests run.
pub fn patience() -> Duration {
    if kubernetes::kubeconfig().is_some() { PATIENCE_ELSEWHERE } else { PATIENCE }
}

/// Looks every 10 ms until `look` finds something.
///
/// # Panics
///
/// After [`PATIENCE`] (five minutes with `SCALER_E2E_KUBECONFIG`), with `what` was waited for and the last thing `look` said of it.
pub async fn until<T, F: Future<Output = Result<T, String>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let patience = patience();
    let deadline = Instant::now() + patience;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(why) => {
                assert!(Instant::now() < deadline, "waited {patience:?} for {what}: {why}");
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
