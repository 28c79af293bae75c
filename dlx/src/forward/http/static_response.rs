//! Requests that `staticResponses` names, of monitors: they neither wake nor count. While the resource is asleep the DLX answers
//! them. While it is awake they are forwarded, since a load balancer must not take a dead resource for a healthy one; with `when:
//! always` the DLX answers them then, too.

use std::{sync::Arc, time::Duration};

use daemon::settings::StaticResponseWhen;
use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;

use super::{Caller, Relay, forward};
use crate::{admit::StaticAnswer, answer::Refusal, identify::Identified, state::Entry};

/// Serves a request that a static response matches.
pub async fn serve(
    caller: &Arc<Caller>,
    identified: Identified,
    request: Request<Incoming>,
    answer: StaticAnswer,
) -> Response<Relay> {
    if answer.when == StaticResponseWhen::Always {
        return response(answer);
    }
    let entry = identified.entry.clone();
    let refusal = match entry.enter_uncounted() {
        Some(in_flight) => match forward::at_once(caller.clone(), identified, request, in_flight).await {
            Ok(response) => return response,
            Err(refusal) => refusal,
        },
        None if entry.is_awake() => Arc::new(not_up(&entry)),
        None => return response(answer),
    };
    refusal.response().map(Relay::from)
}

fn response(answer: StaticAnswer) -> Response<Relay> {
    let mut response = Response::new(Relay::empty());
    *response.status_mut() = answer.status;
    // Prometheus takes no answer that does not say what it is; this one has no samples.
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// 503: it is awake, and none of its endpoints takes requests.
pub fn not_up(entry: &Entry) -> Refusal {
    let why = entry.read(|view| view.why_not_up());
    Refusal::unavailable(&entry.key.id, "not ready", why, Duration::from_secs(1))
}
