//! The admin server's routes of a DLX.

mod activity;
mod fence;
mod metrics;
pub mod resources;
mod waiting;
mod wake;

use std::sync::Arc;

use daemon::{
    admin::{Admin, Handler},
    fleet::Fleet,
    telemetry::{ResourceMetrics, registry},
    token::Token,
};
use http::{Method, Request, Response};
pub use metrics::Exported;
pub use waiting::Waiting;

use crate::dlx::Dlx;

/// The admin server with a DLX's routes.
pub fn admin(dlx: &Arc<Dlx>, fleet: &Fleet, token: Option<Token>, resources: ResourceMetrics) -> Admin {
    let mut registry = registry("dlx");
    fleet.register(&mut registry);
    dlx.metrics.reports_dropped.register(&mut registry);
    registry.register_collector(Box::new(Exported { dlx: Arc::downgrade(dlx), resources }));
    let ready = dlx.clone();
    let admin = Admin::new(registry, token)
        .ready_when(Arc::new(move || ready.ready()))
        .route(Method::GET, "/api/v1/activity", handler(dlx, activity::answer))
        .route(Method::GET, "/api/v1/last-activity", handler(dlx, activity::last))
        .route(Method::POST, "/api/v1/last-activity", handler(dlx, activity::received))
        .route(Method::GET, "/api/v1/resources", handler(dlx, resources::answer))
        .route(Method::POST, "/api/v1/confirm-drain", handler(dlx, fence::answer))
        .route(Method::POST, "/api/v1/wake", handler(dlx, wake::answer));
    fleet.routes(admin)
}

type Body = http_body_util::Full<bytes::Bytes>;

fn handler<F, A>(dlx: &Arc<Dlx>, answer: F) -> Handler
where
    F: Fn(Arc<Dlx>, Request<bytes::Bytes>) -> A + Send + Sync + 'static,
    A: Future<Output = Response<Body>> + Send + 'static,
{
    let dlx = dlx.clone();
    Arc::new(move |request| Box::pin(answer(dlx.clone(), request)))
}
