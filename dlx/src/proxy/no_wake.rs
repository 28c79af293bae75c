//! Requests of monitors, as `noWake` names them: they neither wake nor count. While the resource sleeps the DLX answers them;
//! while it is awake its own answer counts, since a load balancer must not take a dead one for well.

use std::{sync::Arc, time::Duration};

use daemon::settings::Settings;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use super::{Caller, Relay, Routed, forward};
use crate::{answer::Refusal, resource::Entry};

/// What a monitor's request is answered while its resource sleeps; `None`: it is nobody's monitor.
pub fn answer(settings: &Settings, agent: Option<&[u8]>, path: &str) -> Option<StatusCode> {
    let rule = settings.no_wake.iter().find(|rule| {
        let begins = |wanted: &String| agent.is_some_and(|own| own.starts_with(wanted.as_bytes()));
        let names = rule.user_agent.is_some() || rule.path.is_some();
        names
            && rule.user_agent.as_ref().is_none_or(begins)
            && rule.path.as_ref().is_none_or(|own| own == path)
    })?;
    StatusCode::from_u16(rule.status).ok()
}

/// The same for a request.
pub fn answer_to(entry: &Entry, request: &Request<Incoming>) -> Option<StatusCode> {
    let agent = request.headers().get(header::USER_AGENT);
    answer(&entry.facts.load().settings, agent.map(|agent| agent.as_bytes()), request.uri().path())
}

/// Serves a monitor's request, which is answered `asleep` while its resource sleeps.
pub async fn serve(
    caller: &Arc<Caller>,
    routed: Routed,
    request: Request<Incoming>,
    asleep: StatusCode,
) -> Response<Relay> {
    let entry = routed.entry.clone();
    let refusal = match entry.enter_uncounted() {
        Some(in_flight) => match forward::at_once(caller.clone(), routed, request, in_flight).await {
            Ok(response) => return response,
            Err(refusal) => refusal,
        },
        None if entry.is_awake() => Arc::new(not_up(&entry)),
        None => {
            let mut response = Response::new(Relay::empty());
            *response.status_mut() = asleep;
            // Prometheus takes no answer that does not say what it is; this one has no samples.
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            return response;
        }
    };
    refusal.response().map(Relay::from)
}

/// 503: it is awake, and none of its endpoints takes requests.
pub fn not_up(entry: &Entry) -> Refusal {
    let why = entry.read(|view| view.why_not_up());
    Refusal::unavailable(&entry.key.id, "not ready", why, Duration::from_secs(1))
}
