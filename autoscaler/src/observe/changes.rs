//! What the plugin tells, in order: everything first, then what changes.

use std::time::Duration;

use scaler_types::{Changes, backoff::Backoff};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use crate::{
    plugin::{Given, Plugin},
    telemetry::CycleLabels,
};

/// After a plugin that could not say what changed.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));

/// What was told.
pub(crate) enum Told {
    /// This changed.
    Changes(Changes),
    /// It cannot be told now; what was known is kept.
    Nothing,
}

/// Follows the plugin that is given, as another one is given; returns when nobody listens any more.
pub(crate) async fn follow<P: Plugin>(
    mut given: watch::Receiver<Given<P>>,
    labels: CycleLabels,
    told: mpsc::Sender<Told>,
) {
    loop {
        let plugin = given.borrow_and_update().plugin.clone();
        let settings = given.clone();
        tokio::select! {
            () = stream(&plugin, &settings, &labels, &told) => return,
            () = another(&mut given, &plugin) => {}
        }
    }
}

async fn another<P: Plugin>(given: &mut watch::Receiver<Given<P>>, plugin: &P) {
    if given.wait_for(|given| given.plugin != *plugin).await.is_err() {
        std::future::pending().await
    }
}

async fn stream<P: Plugin>(
    plugin: &P,
    given: &watch::Receiver<Given<P>>,
    labels: &CycleLabels,
    told: &mpsc::Sender<Told>,
) {
    let (mut cursor, mut backoff) = (0, BACKOFF);
    let mut reported = None;
    loop {
        let (tell, again) = match plugin.changes(cursor).await {
            Ok(changes) => {
                // One that tells everything each time cannot watch, and has nothing that would be led at once.
                let everything = cursor > 0 && changes.complete;
                let idle = everything && changes.resources.iter().all(|resource| resource.route.is_none());
                (cursor, backoff, reported) = (changes.cursor, BACKOFF, None);
                (Told::Changes(changes), idle.then(|| given.borrow().settings.scale_interval))
            }
            Err(error) => {
                if reported.as_ref() != Some(&error) {
                    let CycleLabels { kind, namespace } = labels;
                    tracing::warn!(kind, namespace, %error, "the plugin cannot tell what changed; routes stay as they are known");
                    reported = Some(error);
                }
                // What was missed meanwhile is not known: everything anew.
                cursor = 0;
                (Told::Nothing, Some(backoff.next_pause()))
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
