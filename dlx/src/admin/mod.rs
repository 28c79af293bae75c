//! The admin server's paths.

mod activity;
mod drain;
pub(crate) mod load;
mod metrics;
pub(crate) mod resources;
mod startup;
pub(crate) mod wake;

use std::sync::Arc;

use daemon::{
    admin::{Admin, Handler},
    plugin_manager::PluginManager,
    telemetry::{ResourceMetrics, registry},
    token::Token,
};
use http::{Method, Request, Response};
pub(crate) use metrics::MetricsCollector;
pub(crate) use startup::StartupStatus;

use crate::stages::Stages;

/// The admin server with the paths of a DLX.
pub(crate) fn admin(
    dlx: &Arc<Stages>,
    plugin_manager: &PluginManager,
    token: Option<Token>,
    resources: ResourceMetrics,
) -> Admin {
    let mut registry = registry("dlx");
    plugin_manager.register(&mut registry);
    dlx.metrics.reports_dropped.register(&mut registry);
    registry.register_collector(Box::new(MetricsCollector { dlx: Arc::downgrade(dlx), resources }));
    let ready = dlx.clone();
    let admin = Admin::new(registry, token)
        .ready_when("dlx", Arc::new(move || ready.ready().map_err(|error| error.to_string())))
        .route(Method::GET, "/api/v1/activity", handler(dlx, activity::answer))
        .route(Method::GET, "/api/v1/last-activity", handler(dlx, activity::last))
        .route(Method::POST, "/api/v1/last-activity", handler(dlx, activity::received))
        .route(Method::POST, "/api/v1/load", handler(dlx, load::answer))
        .route(Method::GET, "/api/v1/resources", handler(dlx, resources::answer))
        .route(Method::POST, "/api/v1/confirm-drain", handler(dlx, drain::answer))
        .route(Method::POST, "/api/v1/wake", handler(dlx, wake::answer));
    plugin_manager.routes(admin)
}

type Body = http_body_util::Full<bytes::Bytes>;

fn handler<F, A>(dlx: &Arc<Stages>, answer: F) -> Handler
where
    F: Fn(Arc<Stages>, Request<bytes::Bytes>) -> A + Send + Sync + 'static,
    A: Future<Output = Response<Body>> + Send + 'static,
{
    let dlx = dlx.clone();
    Arc::new(move |request| Box::pin(answer(dlx.clone(), request)))
}
