//! Calls of gRPC: `grpc.health.v1.Health/Check` says that it serves, any other method answers its own message.

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};

use crate::Answer;

/// `HealthCheckResponse { status: SERVING }`, with the length in front.
const SERVING: &[u8] = &[0, 0, 0, 0, 2, 0x08, 1];

/// Whether it is such a call.
pub fn is_call(request: &Request<Incoming>) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// The answer: a message, and the status in the trailers.
pub async fn answer(request: &mut Request<Incoming>) -> Answer {
    let message = match request.uri().path() {
        "/grpc.health.v1.Health/Check" => Bytes::from_static(SERVING),
        _ => request.body_mut().collect().await.map(|body| body.to_bytes()).unwrap_or_default(),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [Ok(Frame::data(message)), Ok(Frame::trailers(trailers))];
    let mut answer = Response::new(StreamBody::new(stream::iter(frames)).boxed());
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    answer
}
