//! What the autoscaler asks of a plugin.

use std::{future::Future, sync::Arc};

use daemon::{
    reports::{Dropped, Reporter},
    settings::Settings,
};
use plugin_host::{CallError, Instance};
use scaler_types::{
    Changes, Dlx, InterceptionRequest, Record, Resource, ResourceEvent, ResourceId, RestoreRequest,
    ScaleError, ScaleRequest, Version, protocol::Seen,
};
use tokio::sync::watch;

/// The calls the autoscaler makes: on an [`Instance`] in the daemon, on a store in memory in the tests and the
/// benchmark, which a paused clock and a thread's CPU time cannot see through a loaded library.
pub(crate) trait PluginCalls: Clone + PartialEq + Send + Sync + 'static {
    /// The plugin's kind.
    fn kind(&self) -> &str;

    /// All resources; the error says why they cannot be told.
    fn get_resources(&self) -> impl Future<Output = Result<Vec<Resource>, CallError>> + Send;

    /// See [`scaler_types::ResourceScaler::changes`]; the error says why it cannot be told.
    fn changes(&self, cursor: u64) -> impl Future<Output = Result<Changes, CallError>> + Send;

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
    fn sync_dlxs(&self, dlxs: &[Dlx]) -> impl Future<Output = Result<(), CallError>> + Send;

    /// See [`scaler_types::ResourceScaler::restore`].
    fn restore(&self, request: &RestoreRequest) -> impl Future<Output = Result<(), ScaleError>> + Send;

    /// See [`scaler_types::ResourceScaler::publish_event`]; the error says why it cannot be published.
    fn publish_event(
        &self,
        id: &ResourceId,
        event: &ResourceEvent,
    ) -> impl Future<Output = Result<(), CallError>> + Send;
}

/// What a cycle works on; another one may come while it runs.
#[derive(Clone, PartialEq)]
pub(crate) struct ActivePlugin<P> {
    /// The plugin running for the namespace file.
    pub(crate) plugin: P,
    /// What holds for its resources.
    pub(crate) settings: Arc<Settings>,
}

/// Shows reports by the plugin that is given.
pub(crate) fn start_reporter<P: PluginCalls>(
    active: &watch::Receiver<ActivePlugin<P>>,
    dropped: &Dropped,
) -> Reporter {
    let shows = active.clone();
    Reporter::start(dropped.clone(), move |id, report| {
        let plugin = shows.borrow().plugin.clone();
        async move { plugin.publish_event(&id, &report).await.map_err(|error| error.to_string()) }
    })
}

/// What is seen of a resource, as the protocol needs it.
pub(crate) fn protocol_seen(resource: &Resource) -> Seen {
    Seen { record: resource.record.clone(), version: resource.version.clone(), scaled: resource.replicas > 0 }
}

// === impl Instance ===

impl PluginCalls for Instance {
    fn kind(&self) -> &str {
        self.kind()
    }

    async fn get_resources(&self) -> Result<Vec<Resource>, CallError> {
        self.get_resources().await
    }

    async fn changes(&self, cursor: u64) -> Result<Changes, CallError> {
        self.changes(cursor).await
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

    async fn sync_dlxs(&self, dlxs: &[Dlx]) -> Result<(), CallError> {
        self.sync_dlxs(dlxs).await
    }

    async fn restore(&self, request: &RestoreRequest) -> Result<(), ScaleError> {
        self.restore(request).await
    }

    async fn publish_event(&self, id: &ResourceId, event: &ResourceEvent) -> Result<(), CallError> {
        self.publish_event(id, event).await
    }
}
