//! The plugin's resources as a stream: everything first, then what changes.

use std::time::Duration;

use plugin_host::RunningPlugin;
use scaler_types::{Changes, backoff::Backoff};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use crate::{plugin::ActivePlugin, telemetry::CycleLabels};

/// After a plugin that could not say what changed.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));

/// What was told.
pub(crate) enum ListedChanges {
    /// This changed.
    Changes(Changes),
    /// The plugin cannot list now; the last known state is kept.
    Unavailable,
}

/// Follows the active plugin, also when it is replaced; returns when the receiver is gone.
pub(crate) async fn follow_changes(
    mut active: watch::Receiver<ActivePlugin>,
    labels: CycleLabels,
    told: mpsc::Sender<ListedChanges>,
) {
    loop {
        let plugin = active.borrow_and_update().plugin.clone();
        let settings = active.clone();
        tokio::select! {
            () = stream_changes(&*plugin, &settings, &labels, &told) => return,
            () = plugin_replaced(&mut active, &*plugin) => {}
        }
    }
}

async fn plugin_replaced(active: &mut watch::Receiver<ActivePlugin>, plugin: &dyn RunningPlugin) {
    if active.wait_for(|active| *active.plugin != *plugin).await.is_err() {
        std::future::pending().await
    }
}

async fn stream_changes(
    plugin: &dyn RunningPlugin,
    active: &watch::Receiver<ActivePlugin>,
    labels: &CycleLabels,
    told: &mpsc::Sender<ListedChanges>,
) {
    let (mut cursor, mut backoff) = (0, BACKOFF);
    let mut reported = None;
    loop {
        let (tell, again) = match plugin.changes(cursor).await {
            Ok(changes) => {
                // One that lists everything each time cannot watch, and has nothing to intercept at once.
                let everything = cursor > 0 && changes.complete;
                let idle =
                    everything && changes.resources.iter().all(|resource| resource.interception.is_none());
                (cursor, backoff, reported) = (changes.cursor, BACKOFF, None);
                (ListedChanges::Changes(changes), idle.then(|| active.borrow().settings.scale_interval))
            }
            Err(error) => {
                if reported.as_ref() != Some(&error) {
                    let CycleLabels { kind, namespace } = labels;
                    tracing::warn!(kind, namespace, %error, "failed to watch resources; keeping the last known state");
                    reported = Some(error);
                }
                // What was missed meanwhile is not known: everything anew.
                cursor = 0;
                (ListedChanges::Unavailable, Some(backoff.next_pause()))
            }
        };
        if told.send(tell).await.is_err() {
            return;
        }
        if let Some(again) = again {
            #[expect(
                clippy::disallowed_methods,
                reason = "a plugin that failed, or cannot watch, is asked again after a pause"
            )]
            sleep_until(Instant::now() + again).await;
        }
    }
}
