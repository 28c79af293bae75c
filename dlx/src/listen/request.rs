//! Answers one request: identifies its resource, then forwards it.

use std::sync::Arc;

use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::{Body, Incoming};

use crate::{
    admit::static_answer_to,
    answer::ErrorResponse,
    forward::http::{ConnectionContext, ResponseBody, forward, marks, serve_static_response},
    identify::Identified,
    state::ResourceHandle,
};

/// A request that has passed this many times by an address of the same resource is in a loop.
const MAX_VISITS: usize = 5;

/// Answers one request.
pub(crate) async fn answer_request(
    context: Arc<ConnectionContext>,
    request: Box<Request<Incoming>>,
) -> Response<ResponseBody> {
    let version = request.version();
    let may_switch = version == Version::HTTP_11 && request.headers().contains_key(header::UPGRADE);
    let mut response = match identify(&context, &request).await {
        Ok(identified) => serve(&context, identified, request).await,
        Err(refusal) => {
            // It may have been dispatched already, and is not sent.
            drop(context.take_parked());
            refuse(&refusal, None)
        }
    };
    if may_switch && let Some(socket) = &context.socket {
        socket.decide(response.status() == StatusCode::SWITCHING_PROTOCOLS);
    }
    if version <= Version::HTTP_11
        && context.draining.is_cancelled()
        && response.status() != StatusCode::SWITCHING_PROTOCOLS
    {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if version == Version::HTTP_10 && ends_connection(&response) {
        // Otherwise hyper would say that the connection is kept, and the client would wait for the end of the answer.
        *response.version_mut() = Version::HTTP_10;
        response.headers_mut().remove(header::CONNECTION);
    }
    response
}

/// Whether an HTTP/1.0 client sees the end of the answer only by the end of the connection, or asked for its end.
fn ends_connection(response: &Response<ResponseBody>) -> bool {
    let body = response.body();
    let close = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"close");
    response.headers().get(header::CONNECTION).is_some_and(close)
        || !matches!(body, ResponseBody::Withheld)
            && !body.is_end_stream()
            && body.size_hint().exact().is_none()
}

async fn serve(
    context: &Arc<ConnectionContext>,
    identified: Identified,
    mut request: Box<Request<Incoming>>,
) -> Response<ResponseBody> {
    let resource = identified.resource.clone();
    if request.headers().get_all(header::CONTENT_LENGTH).iter().nth(1).is_some()
        && let Some(length) = request.headers_mut().remove(header::CONTENT_LENGTH)
    {
        // They are equal, and sent once from here on (RFC 9110 8.6). For HTTP/1 the library has done it.
        request.headers_mut().insert(header::CONTENT_LENGTH, length);
    }
    if marks(request.headers(), &resource.mark) >= MAX_VISITS {
        drop(context.take_parked());
        return refuse(&ErrorResponse::loop_detected(&resource.key.id), Some(&resource));
    }
    if let Some(answer) = static_answer_to(&resource, &request) {
        // It may have been held under settings without that answer.
        drop(context.take_parked());
        return serve_static_response(context, identified, request, answer).await;
    }
    let response = match forward(context.clone(), identified, request).await {
        Ok(response) => response,
        // A request that its client broke off has no answer of the resource.
        Err(refusal) => {
            let of_resource = refusal.status != StatusCode::BAD_REQUEST;
            return refuse(&refusal, of_resource.then_some(&resource));
        }
    };
    resource.counts.answered(response.status());
    response
}

fn refuse(refusal: &ErrorResponse, resource: Option<&ResourceHandle>) -> Response<ResponseBody> {
    if let Some(resource) = resource {
        resource.counts.answered(refusal.status);
    }
    refusal.response().map(ResponseBody::from)
}

async fn identify(
    context: &ConnectionContext,
    request: &Request<Incoming>,
) -> Result<Identified, ErrorResponse> {
    if let Some(refusal) = refused(context, request) {
        return Err(refusal.clone());
    }
    context.identifier.identify(&context.origin, request).await
}

/// The answer if this request stands in place of a refused head: any other names its host.
fn refused<'a>(context: &'a ConnectionContext, request: &Request<Incoming>) -> Option<&'a ErrorResponse> {
    let names_host = !request.headers().is_empty() || request.uri().authority().is_some();
    let is_http11 = request.version() == Version::HTTP_11;
    context.socket.as_ref()?.refusal().filter(|_| is_http11 && !names_host)
}
