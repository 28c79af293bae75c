//! Has the plugin name the DLXs that take requests now in every route that names any.

use std::time::Duration;

use scaler_types::backoff::Backoff;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use super::Leading;
use crate::{
    plugin::{Given, Plugin},
    telemetry::{CycleLabels, Metrics},
};

/// After a call that failed.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
/// How long one call may take: thousands of routes at the pace of an API server.
const WITHIN: Duration = Duration::from_secs(60);

/// Tends at once, whenever the DLXs or the plugin are others, and each scale interval. Never ends.
///
/// A call under way is given up when the DLXs change: whoever is named by it may be gone, and what it has written is fine.
pub(super) async fn tend<P: Plugin>(
    mut given: watch::Receiver<Given<P>>,
    mut leading: Leading,
    labels: CycleLabels,
    metrics: Metrics,
) {
    let mut failures = 0;
    loop {
        let Given { plugin, settings } = given.borrow_and_update().clone();
        let dlxs = leading.serving.borrow_and_update().clone().filter(|dlxs| !dlxs.is_empty());
        let call = async {
            let Some(dlxs) = dlxs else { return Ok(()) };
            let done = timeout(WITHIN, plugin.tend_routes(&dlxs)).await;
            let done = done.unwrap_or_else(|_| Err("no answer in time".to_owned()));
            if done.is_err() {
                metrics.tend_failures.get_or_create(&labels).inc();
            }
            done
        };
        let mut another = std::pin::pin!(another(&mut given, &mut leading));
        let done = tokio::select! {
            biased;
            () = &mut another => continue,
            done = call => done,
        };
        let again = match done {
            Ok(()) => {
                failures = 0;
                settings.scale_interval
            }
            Err(error) => {
                failures += 1;
                let CycleLabels { kind, namespace } = &labels;
                tracing::warn!(
                    kind,
                    namespace,
                    error,
                    failures,
                    "not every route names the DLXs that take requests now; tried again"
                );
                BACKOFF.pause_after(failures)
            }
        };
        tokio::select! {
            () = another => {}
            () = after(again) => {}
        }
    }
}

/// Returns when the DLXs, or what is given, are others.
async fn another<P: Plugin>(given: &mut watch::Receiver<Given<P>>, leading: &mut Leading) {
    let given = async {
        if given.changed().await.is_err() {
            std::future::pending().await
        }
    };
    let dlxs = async {
        if leading.serving.changed().await.is_err() {
            std::future::pending().await
        }
    };
    tokio::select! {
        () = given => {}
        () = dlxs => {}
    }
}

#[expect(clippy::disallowed_methods, reason = "now and then whatever nobody tells of is put right")]
async fn after(pause: Duration) {
    sleep_until(Instant::now() + pause).await;
}
