//! Keeps the DLX addresses of all intercepted Services up to date.

use std::time::Duration;

use plugin_host::CallError;
use scaler_types::backoff::Backoff;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use super::ServingDlxs;
use crate::{
    plugin::ActivePlugin,
    telemetry::{AutoscalerMetrics, CycleLabels},
};

/// After a call that failed.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
/// How long one call may take: thousands of Services at the pace of an API server.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Syncs at once, whenever the DLXs or the plugin change, and each scale interval. Never ends.
///
/// A call in progress is cancelled when the DLXs change: those it names may be gone. Its writes may stay.
pub(super) async fn keep_dlxs_synced(
    mut active: watch::Receiver<ActivePlugin>,
    mut serving: ServingDlxs,
    labels: CycleLabels,
    metrics: AutoscalerMetrics,
) {
    let mut failures = 0;
    loop {
        let ActivePlugin { plugin, settings } = active.borrow_and_update().clone();
        let dlxs = serving.serving.borrow_and_update().clone().filter(|dlxs| !dlxs.is_empty());
        let call = async {
            let Some(dlxs) = dlxs else { return Ok(()) };
            let done = timeout(CALL_TIMEOUT, plugin.sync_dlxs(&dlxs)).await;
            let done = done.unwrap_or(Err(CallError::TimedOut(CALL_TIMEOUT)));
            if done.is_err() {
                metrics.dlx_sync_failures.get_or_create(&labels).inc();
            }
            done
        };
        let mut changed = std::pin::pin!(inputs_changed(&mut active, &mut serving));
        let done = tokio::select! {
            biased;
            () = &mut changed => continue,
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
                    %error,
                    failures,
                    "failed to update the DLX addresses of intercepted Services; retrying"
                );
                BACKOFF.pause_after(failures)
            }
        };
        tokio::select! {
            () = changed => {}
            () = sleep_for(again) => {}
        }
    }
}

/// Returns when the DLXs or the active plugin have changed.
async fn inputs_changed(active: &mut watch::Receiver<ActivePlugin>, serving: &mut ServingDlxs) {
    let active = async {
        if active.changed().await.is_err() {
            std::future::pending().await
        }
    };
    let dlxs = async {
        if serving.serving.changed().await.is_err() {
            std::future::pending().await
        }
    };
    tokio::select! {
        () = active => {}
        () = dlxs => {}
    }
}

#[expect(clippy::disallowed_methods, reason = "a periodic sync repairs what no event announced")]
async fn sleep_for(pause: Duration) {
    sleep_until(Instant::now() + pause).await;
}
