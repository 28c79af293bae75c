//! What the autoscaler asks of a plugin.

use std::{future::Future, sync::Arc};

use daemon::{
    reports::{Dropped, Reporter},
    settings::Settings,
};
use plugin_host::Instance;
use scaler_types::{
    Changes, Dlx, ReleaseRequest, Report, Resource, ResourceId, RouteRequest, Row, ScaleError, ScaleRequest,
    Version, protocol::Seen,
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
        row: &Row,
    ) -> impl Future<Output = Result<Version, ScaleError>> + Send;

    /// See [`scaler_types::ResourceScaler::set_scale`].
    fn set_scale(&self, request: &ScaleRequest) -> impl Future<Output = Result<(), ScaleError>> + Send;

    /// See [`scaler_types::ResourceScaler::set_route`].
    fn set_route(&self, request: &RouteRequest) -> impl Future<Output = Result<(), ScaleError>> + Send;

    /// See [`scaler_types::ResourceScaler::tend_routes`]; the error says what could not be written.
    fn tend_routes(&self, dlxs: &[Dlx]) -> impl Future<Output = Result<(), String>> + Send;

    /// See [`scaler_types::ResourceScaler::release`].
    fn release(&self, request: &ReleaseRequest) -> impl Future<Output = Result<(), ScaleError>> + Send;

    /// See [`scaler_types::ResourceScaler::report`]; the error says why it cannot be shown.
    fn report(&self, id: &ResourceId, report: &Report) -> impl Future<Output = Result<(), String>> + Send;
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
        async move { plugin.report(&id, &report).await }
    })
}

/// What is seen of a resource, as the protocol needs it.
pub fn protocol_seen(resource: &Resource) -> Seen {
    Seen { row: resource.row.clone(), version: resource.version.clone(), scaled: resource.replicas > 0 }
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
        row: &Row,
    ) -> Result<Version, ScaleError> {
        self.compare_and_set(id, expected, row).await
    }

    async fn set_scale(&self, request: &ScaleRequest) -> Result<(), ScaleError> {
        self.set_scale(request).await
    }

    async fn set_route(&self, request: &RouteRequest) -> Result<(), ScaleError> {
        self.set_route(request).await
    }

    async fn tend_routes(&self, dlxs: &[Dlx]) -> Result<(), String> {
        self.tend_routes(dlxs).await.map_err(|error| error.to_string())
    }

    async fn release(&self, request: &ReleaseRequest) -> Result<(), ScaleError> {
        self.release(request).await
    }

    async fn report(&self, id: &ResourceId, report: &Report) -> Result<(), String> {
        self.report(id, report).await.map_err(|error| error.to_string())
    }
}
