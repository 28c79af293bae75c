//! A gRPC health server: HTTP/2 in clear text, status in trailers, as gRPC servers answer.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Empty, Full, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

/// The status it answers for the service `shop`, and the checks it got.
#[derive(Default)]
pub(crate) struct Health {
    /// `ServingStatus` of the service `shop`: 1 is SERVING, 2 is NOT_SERVING.
    pub(crate) status: AtomicU8,
    pub(crate) checks: AtomicUsize,
    pub(crate) requests: Mutex<Vec<String>>,
}

/// Starts one.
pub(crate) async fn health() -> (SocketAddr, Arc<Health>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let health = Arc::new(Health::default());
    let served = health.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let served = served.clone();
            let service = service_fn(move |request| {
                let served = served.clone();
                async move { Ok::<_, Infallible>(answer(&served, request).await) }
            });
            tokio::spawn(
                http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    (address, health)
}

async fn answer(health: &Health, request: Request<Incoming>) -> Response<BoxBody<Bytes, Infallible>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let kind = head.headers.get("content-type").map(HeaderValue::as_bytes);
    health.requests.lock().unwrap().push(format!("{} {}", head.method, head.uri));
    health.checks.fetch_add(1, Ordering::SeqCst);
    let response = Response::builder().header("content-type", "application/grpc");
    let failed = |status: &'static str| {
        Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", status)
            .body(Empty::new().boxed())
            .unwrap()
    };
    if head.uri.path() != "/grpc.health.v1.Health/Check" || kind != Some(b"application/grpc") {
        return failed("12");
    }
    // Field 1, a string of four bytes: `shop`.
    if body.as_ref() != b"\0\0\0\0\x06\x0a\x04shop" {
        return failed("5");
    }
    let status = health.status.load(Ordering::SeqCst);
    let message = Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, status]);
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))]);
    response.body(Full::new(message).with_trailers(async { Some(Ok(trailers)) }).boxed()).unwrap()
}
