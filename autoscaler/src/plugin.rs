//! The plugin that a cycle works with.

use std::sync::Arc;

use daemon::{
    reports::{Dropped, Reporter},
    settings::Settings,
};
use plugin_host::RunningPlugin;
use scaler_types::{Resource, protocol::Seen};
use tokio::sync::watch;

/// The plugin a cycle works on; another one may come while it runs.
#[derive(Clone)]
pub(crate) struct ActivePlugin {
    /// The plugin running for the namespace file.
    pub(crate) plugin: Arc<dyn RunningPlugin>,
    /// The settings of its resources.
    pub(crate) settings: Arc<Settings>,
}

/// Publishes events by the active plugin.
pub(crate) fn start_reporter(active: &watch::Receiver<ActivePlugin>, dropped: &Dropped) -> Reporter {
    let shows = active.clone();
    Reporter::start(dropped.clone(), move |id, report| {
        let plugin = shows.borrow().plugin.clone();
        async move { plugin.publish_event(&id, &report).await.map_err(|error| error.to_string()) }
    })
}

/// The resource, as the protocol needs it.
pub(crate) fn protocol_seen(resource: &Resource) -> Seen {
    Seen { record: resource.record.clone(), version: resource.version.clone(), scaled: resource.replicas > 0 }
}

// === impl ActivePlugin ===

impl PartialEq for ActivePlugin {
    fn eq(&self, other: &Self) -> bool {
        *self.plugin == *other.plugin && self.settings == other.settings
    }
}
