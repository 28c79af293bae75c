//! The resources of the active plugin as a stream: everything first, then what changes.

use std::sync::Arc;

use plugin_host::{CallError, ChangeStream, Listed, RunningPlugin};
use scaler_types::Changes;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use crate::plugin::ActivePlugin;

/// The changes; the error is why the plugin cannot list now: the last known state is kept.
pub(crate) type ListedChanges = Result<Listed<Changes>, CallError>;

/// Follows the active plugin, also when it is replaced; returns when the receiver is gone.
pub(crate) async fn follow_changes(
    mut active: watch::Receiver<ActivePlugin>,
    sender: mpsc::Sender<ListedChanges>,
) {
    loop {
        let plugin = active.borrow_and_update().plugin.clone();
        let settings = active.clone();
        tokio::select! {
            () = stream_changes(plugin.clone(), &settings, &sender) => return,
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
    plugin: Arc<dyn RunningPlugin>,
    active: &watch::Receiver<ActivePlugin>,
    sender: &mpsc::Sender<ListedChanges>,
) {
    let mut stream = ChangeStream::new(plugin);
    loop {
        let lists_all = stream.lists_all();
        let changes = stream.next().await;
        // One that lists everything each time cannot watch, and has nothing to intercept or to scale at once.
        let waits = changes.as_ref().is_ok_and(|Listed { readable: changes, .. }| {
            !lists_all
                && changes.complete
                && changes.resources.iter().all(|resource| {
                    resource.interception.is_none()
                        && resource.scaling.is_none()
                        && resource.wake_now.is_empty()
                })
        });
        if sender.send(changes).await.is_err() {
            return;
        }
        if waits {
            let interval = active.borrow().settings.scale_interval;
            #[expect(
                clippy::disallowed_methods,
                reason = "a plugin that cannot watch is asked again after a pause"
            )]
            sleep_until(Instant::now() + interval).await;
        }
    }
}
