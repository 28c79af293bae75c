//! Requests that `staticResponses` names, of monitors: they neither wake nor count. While the resource is asleep the DLX answers
//! them. While it is awake they are forwarded, since a load balancer must not take a dead resource for a healthy one; with `when:
//! always` the DLX answers them then, too.

use std::{sync::Arc, time::Duration};

use daemon::settings::{Settings, StaticResponseWhen};
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use super::{Caller, Relay, Routed, forward};
use crate::{answer::Refusal, resource::Entry};

/// What the DLX answers to a request that a static response matches.
#[derive(Clone, Copy, Debug)]
pub struct StaticAnswer {
    status: StatusCode,
    when: StaticResponseWhen,
}

/// The answer of the first static response that matches the request, if one does.
pub fn answer(settings: &Settings, agent: Option<&[u8]>, path: &str) -> Option<StaticAnswer> {
    let rule = settings.static_responses.iter().find(|rule| {
        let begins = |wanted: &String| agent.is_some_and(|own| own.starts_with(wanted.as_bytes()));
        let names = rule.user_agent.is_some() || rule.path.is_some();
        names
            && rule.user_agent.as_ref().is_none_or(begins)
            && rule.path.as_ref().is_none_or(|own| own == path)
    })?;
    Some(StaticAnswer { status: StatusCode::from_u16(rule.status).ok()?, when: rule.when })
}

/// The same for a request.
pub fn answer_to(entry: &Entry, request: &Request<Incoming>) -> Option<StaticAnswer> {
    let agent = request.headers().get(header::USER_AGENT);
    answer(&entry.facts.load().settings, agent.map(|agent| agent.as_bytes()), request.uri().path())
}

/// Serves a request that a static response matches.
pub async fn serve(
    caller: &Arc<Caller>,
    routed: Routed,
    request: Request<Incoming>,
    answer: StaticAnswer,
) -> Response<Relay> {
    if answer.when == StaticResponseWhen::Always {
        return answer.response();
    }
    let entry = routed.entry.clone();
    let refusal = match entry.enter_uncounted() {
        Some(in_flight) => match forward::at_once(caller.clone(), routed, request, in_flight).await {
            Ok(response) => return response,
            Err(refusal) => refusal,
        },
        None if entry.is_awake() => Arc::new(not_up(&entry)),
        None => return answer.response(),
    };
    refusal.response().map(Relay::from)
}

// === impl StaticAnswer ===

impl StaticAnswer {
    fn response(self) -> Response<Relay> {
        let mut response = Response::new(Relay::empty());
        *response.status_mut() = self.status;
        // Prometheus takes no answer that does not say what it is; this one has no samples.
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response
    }
}

/// 503: it is awake, and none of its endpoints takes requests.
pub fn not_up(entry: &Entry) -> Refusal {
    let why = entry.read(|view| view.why_not_up());
    Refusal::unavailable(&entry.key.id, "not ready", why, Duration::from_secs(1))
}
