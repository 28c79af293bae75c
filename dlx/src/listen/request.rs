//! One request: for whom is it, may it go, to where, and back.

use std::sync::Arc;

use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::{Body, Incoming};

use crate::{
    admit::static_answer_to,
    answer::Refusal,
    forward::http::{Caller, Relay, forward, marks, serve_static_response},
    identify::Identified,
    state::Entry,
};

/// A request that came by an address of the same resource this often runs in circles.
const LOOP: usize = 5;

/// Answers one request.
pub async fn handle(caller: Arc<Caller>, request: Request<Incoming>) -> Response<Relay> {
    let version = request.version();
    let may_switch = version == Version::HTTP_11 && request.headers().contains_key(header::UPGRADE);
    let mut response = match identify(&caller, &request).await {
        Ok(identified) => serve(&caller, identified, request).await,
        Err(refusal) => {
            // It may have been let go, and is sent nowhere.
            drop(caller.take_parked());
            refuse(&refusal, None)
        }
    };
    if may_switch && let Some(socket) = &caller.socket {
        socket.decide(response.status() == StatusCode::SWITCHING_PROTOCOLS);
    }
    if version <= Version::HTTP_11
        && caller.draining.is_cancelled()
        && response.status() != StatusCode::SWITCHING_PROTOCOLS
    {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if version == Version::HTTP_10 && ends_connection(&response) {
        // Else hyper would say that the connection is kept: the client would wait for an end that is the connection's.
        *response.version_mut() = Version::HTTP_10;
        response.headers_mut().remove(header::CONNECTION);
    }
    response
}

/// Whether a client of HTTP/1.0 sees the end of the answer by the end of the connection alone, or is to see it end.
fn ends_connection(response: &Response<Relay>) -> bool {
    let body = response.body();
    let close = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"close");
    response.headers().get(header::CONNECTION).is_some_and(close)
        || !matches!(body, Relay::Withheld) && !body.is_end_stream() && body.size_hint().exact().is_none()
}

async fn serve(
    caller: &Arc<Caller>,
    identified: Identified,
    mut request: Request<Incoming>,
) -> Response<Relay> {
    let entry = identified.entry.clone();
    if request.headers().get_all(header::CONTENT_LENGTH).iter().nth(1).is_some()
        && let Some(length) = request.headers_mut().remove(header::CONTENT_LENGTH)
    {
        // They are equal, and said once from here on (RFC 9110 8.6). Of HTTP/1 the library has done it.
        request.headers_mut().insert(header::CONTENT_LENGTH, length);
    }
    if marks(request.headers(), &entry.mark) >= LOOP {
        return refuse(&Refusal::looped(&entry.key.id), Some(&entry));
    }
    if let Some(answer) = static_answer_to(&entry, &request) {
        return serve_static_response(caller, identified, request, answer).await;
    }
    entry.counts.arrived();
    let response = match forward(caller.clone(), identified, request).await {
        Ok(response) => response,
        // What its client broke off is no answer of the resource's.
        Err(refusal) => {
            let of_resource = refusal.status != StatusCode::BAD_REQUEST;
            return refuse(&refusal, of_resource.then_some(&entry));
        }
    };
    entry.counts.answered(response.status());
    response
}

fn refuse(refusal: &Refusal, entry: Option<&Entry>) -> Response<Relay> {
    if let Some(entry) = entry {
        entry.counts.answered(refusal.status);
    }
    refusal.response().map(Relay::from)
}

async fn identify(caller: &Caller, request: &Request<Incoming>) -> Result<Identified, Refusal> {
    if let Some(refusal) = refused(caller, request) {
        return Err(refusal.clone());
    }
    caller.identifier.identify(&caller.origin, request).await
}

/// What is to be answered where this stands in place of a head that is not taken: any other names its host.
fn refused<'a>(caller: &'a Caller, request: &Request<Incoming>) -> Option<&'a Refusal> {
    let names_host = !request.headers().is_empty() || request.uri().authority().is_some();
    let is_http11 = request.version() == Version::HTTP_11;
    caller.socket.as_ref()?.refusal().filter(|_| is_http11 && !names_host)
}
