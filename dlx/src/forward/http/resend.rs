//! Decides whether a request is sent a second time: never if the resource may have acted on it.

use std::{error::Error, time::Duration};

use http::{Method, Request};
use tokio::time::Instant;

use super::{RequestBody, replay::Replay, upstream::Upstream};

/// A reused connection that ends within this time after the request crossed with it. Later, the resource may have acted
/// on the request.
const CROSSED_WITHIN: Duration = Duration::from_secs(1);

/// Marks a request that is sent for the second time.
#[derive(Clone, Copy, Debug)]
struct Second;

/// Whether the request may be sent again although the resource may have seen it: a safe method, no body, and the first
/// time.
pub(crate) fn is_safe(request: &Request<RequestBody>) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS)
        && matches!(request.body(), RequestBody::Empty)
        && !is_second(request)
}

/// Whether it is being sent for the second time.
pub(crate) fn is_second(request: &Request<RequestBody>) -> bool {
    request.extensions().get::<Second>().is_some()
}

/// Marks a request that is about to be sent for the second time.
pub(crate) fn mark_second(request: &mut Request<RequestBody>) {
    request.extensions_mut().insert(Second);
}

/// Takes the request out of its place, where it may be put back.
pub(crate) fn take(request: &mut Request<RequestBody>) -> Request<RequestBody> {
    std::mem::replace(request, Request::new(RequestBody::Empty))
}

/// Makes the body of a request repeatable, and makes a copy of the request; for HTTP/2, which reports what was not
/// processed. No copy of a request that is sent for the second time.
pub(crate) fn keep(request: Request<RequestBody>) -> (Request<RequestBody>, Option<Request<RequestBody>>) {
    if is_second(&request) {
        return (request, None);
    }
    let (parts, body) = request.into_parts();
    let body = match body {
        RequestBody::Streaming(body) => RequestBody::Kept(Replay::new(body)),
        other => other,
    };
    let request = Request::from_parts(parts, body);
    let again = match request.body() {
        RequestBody::Kept(replay) => RequestBody::Kept(replay.later()),
        _ => RequestBody::Empty,
    };
    let again = copy_with(&request, again);
    (request, Some(again))
}

/// Has the copy take over the body, if all that was sent is kept.
pub(crate) fn begins_again(copy: &Request<RequestBody>) -> bool {
    match copy.body() {
        RequestBody::Kept(replay) => replay.begin(),
        _ => true,
    }
}

fn copy_with(request: &Request<RequestBody>, body: RequestBody) -> Request<RequestBody> {
    let mut copy = Request::new(body);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// Whether a request that was sent at `sent` on a reused connection crossed with the connection's close.
pub(crate) fn crossed(closed: Option<Instant>, sent: Instant) -> bool {
    closed.is_some_and(|closed| closed.duration_since(sent) < CROSSED_WITHIN)
}

/// Whether the resource reported that it did not process the request: it refused the stream, or its GOAWAY names an
/// earlier one.
pub(crate) fn was_refused(error: &hyper::Error, connection: &Upstream) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
            // A closed connection gives the same error to streams that were processed.
            let later = error.is_go_away() && connection.closed().is_none();
            return error.is_remote() && (refused || later);
        }
        cause = error.source();
    }
    false
}
