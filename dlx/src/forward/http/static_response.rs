//! Serves requests of monitors, as in `staticResponses`: they neither wake nor count. While the resource is asleep the
//! DLX answers them. While it is awake they are forwarded, since a load balancer must not take a dead resource for a
//! healthy one; with `when: always` the DLX answers them then, too.

use std::{sync::Arc, time::Duration};

use daemon::settings::StaticResponseWhen;
use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;

use super::{ConnectionContext, ResponseBody, forward};
use crate::{
    admit::StaticAnswer, answer::ErrorResponse, error_code, identify::Identified, state::ResourceHandle,
};

/// Serves a request that matches a static response.
pub(crate) async fn serve(
    context: &Arc<ConnectionContext>,
    identified: Identified,
    request: Box<Request<Incoming>>,
    answer: StaticAnswer,
) -> Response<ResponseBody> {
    if answer.when == StaticResponseWhen::Always {
        return response(answer);
    }
    let resource = identified.resource.clone();
    let refusal = match resource.enter_uncounted() {
        Some(in_flight) => match forward::at_once(context.clone(), identified, request, in_flight).await {
            Ok(response) => return response,
            Err(refusal) => refusal,
        },
        None if resource.is_awake() => Arc::new(not_up(&resource)),
        None => return response(answer),
    };
    refusal.response().map(ResponseBody::from)
}

fn response(answer: StaticAnswer) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = answer.status;
    // Prometheus requires a content type; this answer has no samples.
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// 503: the resource is awake, and no endpoint takes requests.
pub(crate) fn not_up(resource: &ResourceHandle) -> ErrorResponse {
    let why = resource.read(|view| view.why_not_up());
    ErrorResponse::unavailable(&resource.key.id, error_code::NOT_READY, why, Duration::from_secs(1))
}
