//! What the autoscaler asks of a plugin.

use std::{future::Future, sync::Arc};

use daemon::{
    reports::{Dropped, Reporter},
    settings::Settings,
};
use plugin_host::Instance;
use scaler_types::{
    Changes, Dlx, InterceptionRequest, Record, Resource, ResourceEvent, ResourceId, RestoreRequest,
    ScaleError, ScaleRequest, Version, protocol::Seen,
};
use tokio::sync::watch;

/// The calls the autoscaler makes: on an [`Instance`] in the daemon, on a store in memory in the tests and the
/// benchmark, which a paused clock and a thread's CPU time cannot see through a loaded library.
pub trait Plugin: Clone + PartialEq + Send + Sync + 'static {
    /// The plugin's kind.
    fn kind(&self) -> &str;

    /// All resources; the error says why they cannot be told.
    fn get_resources(&self) -> impl Future<Output = Result<Vec<Resource>, String>> + Send;

    /// See [`scaler_types::ResourceScaler::changes`]; the error says why it cannot be told.
    fn changes(&self, cursor: u64) -> impl Future<Output = Result<Changes, String>> + Send;

    /// See [`scaler_types::ResourceScaler::compare_and_set`].
    fn compare_and_set(
        &self,
        id: &ResourceId,
        expected: &Version,
        record: &Record,
    ) -> impl Future<Output = Result<Version, ScaleError>> + Send;

    /// See [`scaler_types::ResourceScaler::set_scale`].
    fn set_scale(&self, request: &ScaleRequest) -> impl Future<Output = Result<(), ScaleError>> + Send;

    /// See [`scaler_types::ResourceScaler::set_backend`].
    fn set_backend(
        &self,
        request: &InterceptionRequest,
    ) -> impl Future<Output = Result<(), ScaleError>> + Send;

    /// See [`scaler_types::ResourceScaler::sync_dlxs`]; the error says what could not be written.
    fn sync_dlxs(&self, dlxs: &[Dlx]) -> impl Future<Output = Result<(), String>> + Send;

    /// See [`scaler_types::ResourceScaler::restore`].
    fn restore(&self, request: &RestoreRequest) -> impl Future<Output = Result<(), ScaleError>> + Send;

    /// See [`scaler_types::ResourceScaler::publish_event`]; the error says why it cannot be published.
    fn publish_event(
        &self,
        id: &ResourceId,
        event: &ResourceEvent,
    ) -> impl Future<Output = Result<(), String>> + Send;
}

/// What a cycle works on; another one may come while it runs.
#[derive(Clone, PartialEq)]
pub struct ActivePlugin<P> {
    /// The plugin at work for the namespace file.
    pub plugin: P,
    /// What holds for its resources.
    pub settings: Arc<Settings>,
}

/// Shows reports by the plugin that is given.
pub(crate) fn start_reporter<P: Plugin>(
    active: &watch::Receiver<ActivePlugin<P>>,
    dropped: &Dropped,
) -> Reporter {
    let shows = active.clone();
    Reporter::start(dropped.clone(), move |id, report| {
        let plugin = shows.borrow().plugin.clone();
        async move { plugin.publish_event(&id, &report).await }
    })
}

/// What is seen of a resource, as the protocol needs it.
pub fn protocol_seen(resource: &Resource) -> Seen {
    Seen { record: resource.record.clone(), version: resource.version.clone(), scaled: resource.replicas > 0 }
}

// === impl Instance ===

impl Plugin for Instance {
    fn kind(&self) -> &str {
        self.kind()
    }

    async fn get_resources(&self) -> Result<Vec<Resource>, String> {
        self.get_resources().await.map_err(|error| error.to_string())
    }

    async fn changes(&self, cursor: u64) -> Result<Changes, String> {
        self.changes(cursor).await.map_err(|error| error.to_string())
    }

    async fn compare_and_set(
        &self,
        id: &ResourceId,
        expected: &Version,
        record: &Record,
    ) -> Result<Version, ScaleError> {
        self.compare_and_set(id, expected, record).await
    }

    async fn set_scale(&self, request: &ScaleRequest) -> Result<(), ScaleError> {
        self.set_scale(request).await
    }

    async fn set_backend(&self, request: &InterceptionRequest) -> Result<(), ScaleError> {
        self.set_backend(request).await
    }

    async fn sync_dlxs(&self, dlxs: &[Dlx]) -> Result<(), String> {
        self.sync_dlxs(dlxs).await.map_err(|error| error.to_string())
    }

    async fn restore(&self, request: &RestoreRequest) -> Result<(), ScaleError> {
        self.restore(request).await
    }

    async fn publish_event(&self, id: &ResourceId, event: &ResourceEvent) -> Result<(), String> {
        self.publish_event(id, event).await.map_err(|error| error.to_string())
    }
}
