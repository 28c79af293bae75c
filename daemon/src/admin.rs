//! The admin server: /healthz, /readyz, /metrics, and the daemon's own routes.
use std::{future::Future, io, net::TcpListener, pin::Pin, sync::Arc};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use prometheus_client::registry::Registry;
pub type Answer = Pin<Box<dyn Future<Output = Response<Full<Bytes>>> + Send>>;
/// Body read whole (1 MiB at most).
pub type Handler = Arc<dyn Fn(Request<Bytes>) -> Answer + Send + Sync>;
pub struct Admin {}
impl Admin {
    /// `token`: what writes must carry as a bearer token; `None`: writes are taken from loopback only.
    pub fn new(registry: Registry, token: Option<String>) -> Self { todo!() }
    /// GET routes are open; every other method is a write and wants the token.
    pub fn route(self, method: Method, path: &'static str, handler: Handler) -> Self { todo!() }
    /// `/readyz` answers 503 with the reason while this says so.
    pub fn ready_when(self, ready: Arc<dyn Fn() -> Result<(), String> + Send + Sync>) -> Self { todo!() }
    /// Serves until the process ends.
    pub async fn serve(self, listener: TcpListener) -> io::Result<()> { todo!() }
}
/// A JSON answer.
pub fn json<T: serde::Serialize>(status: http::StatusCode, body: &T) -> Response<Full<Bytes>> { todo!() }
