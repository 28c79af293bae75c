//! The plugin that a cycle works with.

use std::{sync::Arc, time::Duration};

use daemon::{
    reports::{Dropped, Reporter},
    settings::Settings,
};
use plugin_host::RunningPlugin;
use scaler_types::{
    Nonce, Resource, ResourceId, ScaleError, ScaleRequest, Target,
    protocol::{Seen, Step, transition},
};
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

/// Wakes a resource as it was seen, without a request: `active` is written together with so many replicas. Where it cannot start
/// without a change by its user, `failed` is written instead.
///
/// # Errors
///
/// Those of the plugin; `Conflict`, too, where it needs no wake.
pub(crate) async fn wake_by_leader(
    plugin: &dyn RunningPlugin,
    id: &ResourceId,
    seen: &Seen,
    replicas: u32,
    reason: &str,
    deadline: Duration,
) -> Result<(), ScaleError> {
    let Some(record) = transition(seen, Step::WakeByLeader, Nonce::fresh(), reason) else {
        return Err(ScaleError::Conflict);
    };
    let request = ScaleRequest {
        id: id.clone(),
        target: Target::AtLeast(replicas),
        version: seen.version.clone(),
        record,
        deadline,
        intercepted_for: Duration::ZERO,
        busy: Vec::new(),
    };
    let result = plugin.set_scale(&request).await;
    if let Err(ScaleError::Terminal { reason }) = &result
        && let Err(error) = write_failed(plugin, seen, &request, reason).await
    {
        // Another writer was faster, or its wake is attempted again after a pause.
        tracing::debug!(resource = %id, %error, "failed to write that its wake failed");
    }
    result
}

/// Records that a wake failed: on the version seen before it or, if the wake's own record was written, on that record.
async fn write_failed(
    plugin: &dyn RunningPlugin,
    seen: &Seen,
    wake: &ScaleRequest,
    reason: &str,
) -> Result<(), ScaleError> {
    let fail = async |seen: &Seen| match transition(seen, Step::Fail, Nonce::fresh(), reason) {
        Some(failed) => plugin.compare_and_set(&wake.id, &seen.version, &failed).await.map(drop),
        None => Ok(()),
    };
    match fail(seen).await {
        Err(ScaleError::Conflict) => {}
        result => return result,
    }
    let listed = plugin.get_resources().await.map_err(|error| ScaleError::Retry {
        after: Duration::ZERO,
        reason: format!("listing the resources: {error}"),
    })?;
    let is_own = |resource: &&Resource| resource.id == wake.id && resource.record.nonce == wake.record.nonce;
    match listed.readable.iter().find(is_own) {
        Some(resource) => fail(&protocol_seen(resource)).await,
        None => Err(ScaleError::Conflict),
    }
}

// === impl ActivePlugin ===

impl PartialEq for ActivePlugin {
    fn eq(&self, other: &Self) -> bool {
        *self.plugin == *other.plugin && self.settings == other.settings
    }
}
