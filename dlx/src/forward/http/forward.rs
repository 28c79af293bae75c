//! Forwards one request: through the gate, to the resource, and its answer back.

use std::{fmt::Write as _, pin::Pin, sync::Arc, time::Duration};

use daemon::settings::ForwardedHeaders;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri, Version, header};
use hyper::{
    body::{Body as _, Incoming},
    upgrade::OnUpgrade,
};
use scaler_types::AddressOf;
use tokio::time::{Instant, sleep_until, timeout};

use super::{
    ConnectionContext, ParkedRequest, RequestBody, ResponseBody, body::FromResource, headers, http1,
    library_body::LibraryBody, pool::Unsent, resend, static_response, upgrade, upload::Unanswered,
};
use crate::{
    admit::{Admission, Admitted, weight},
    answer::ErrorResponse,
    error_code,
    identify::{Identified, client},
    state::{ColdStart, Effect, EndpointTarget, InFlight, ResourceHandle, WakeCause},
};

/// A dispatched request frees its permit when the head of its response has arrived, or after this time.
pub(super) const PERMIT_TIMEOUT: Duration = Duration::from_secs(1);
/// The pause before a port of a ready endpoint is tried again.
const PORT_RETRY_DELAY: Duration = Duration::from_millis(20);

/// An answer as it came.
#[expect(clippy::large_enum_variant, reason = "a box would cost each answer an allocation")]
enum Answer {
    /// Of HTTP.
    Http(Response<FromResource>),
    /// The resource switched the protocol; bytes are copied from now on.
    Switched(Response<Incoming>),
}

/// A pending exchange.
type Exchange = Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Arc<ErrorResponse>>> + Send>>;

/// Forwards a request now or as soon as its resource is up. An error: the answer instead.
///
/// Boxed and not `async` itself: sending a request takes several KiB, which neither an idle connection nor a held request
/// should carry.
pub(crate) fn forward(
    context: Arc<ConnectionContext>,
    identified: Identified,
    request: Box<Request<Incoming>>,
) -> Exchange {
    let Identified { resource, path } = identified;
    let parked = context.take_parked();
    if !parked.as_ref().is_some_and(|parked| parked.counted) {
        resource.counts.arrived();
    }
    let admission = match parked {
        Some(ParkedRequest { admission, outcome, sent_before, .. })
            if Arc::ptr_eq(admission.resource(), &resource) =>
        {
            return Box::pin(async move {
                let admitted = outcome?;
                let outgoing = outgoing(&context, admission.resource(), path, *request);
                send_on(context, admission, outgoing, admitted, sent_before).await
            });
        }
        Some(ParkedRequest { admission, .. }) => admission.for_resource(resource),
        None => Admission::new(resource),
    };
    match admission.enter() {
        Some(in_flight) => {
            let admitted = Admitted { in_flight, held: None };
            let outgoing = outgoing(&context, admission.resource(), path, *request);
            Box::pin(send_on(context, admission, outgoing, admitted, false))
        }
        None => Box::pin(hold(context, admission, path, request)),
    }
}

/// Forwards a request that must neither be held nor wake its resource.
pub(crate) fn at_once(
    context: Arc<ConnectionContext>,
    identified: Identified,
    request: Box<Request<Incoming>>,
    in_flight: InFlight,
) -> Exchange {
    let Identified { resource, path } = identified;
    let admitted = Admitted { in_flight, held: None };
    let outgoing = outgoing(&context, &resource, path, *request);
    Box::pin(send_on(context, Admission::at_once(resource), outgoing, admitted, false))
}

/// Holds a request until its resource is up, then sends it; stops when its client leaves.
async fn hold(
    context: Arc<ConnectionContext>,
    mut admission: Admission,
    path: Option<http::uri::PathAndQuery>,
    mut request: Box<Request<Incoming>>,
) -> Result<Response<ResponseBody>, Arc<ErrorResponse>> {
    let bytes = weight(&request);
    admission.note_cause(|| {
        let client = client(&context.identifier.peers, &context.origin.peer, request.headers());
        let host =
            request.headers().get(header::HOST).map(HeaderValue::as_bytes).map(String::from_utf8_lossy);
        let host = request.uri().host().map(Into::into).or(host).unwrap_or_default();
        WakeCause::request(client, request.method().as_str(), &host, request.uri().path())
    });
    headers::unpin(&mut request);
    let admitted = match &context.socket {
        // HTTP/2: the end of the stream drops this future.
        None => admission.wait(bytes).await?,
        Some(socket) => tokio::select! {
            admitted = admission.wait(bytes) => admitted?,
            () = socket.closed() => {
                // The client does not read it; it ends the connection.
                let reason = "the client closed the connection";
                let id = &admission.resource().key.id;
                let refusal = ErrorResponse::unavailable(id, error_code::CLIENT_LEFT, reason, Duration::from_secs(1));
                return Err(Arc::new(ErrorResponse { close: true, ..refusal }));
            }
        },
    };
    let outgoing = outgoing(&context, admission.resource(), path, *request);
    Box::pin(send_on(context, admission, outgoing, admitted, false)).await
}

/// Holds a request that found no endpoint. An error says whether the resource may have seen it the first time.
async fn wait_again(
    admission: &mut Admission,
    request: &Request<RequestBody>,
) -> Result<Admitted, Arc<ErrorResponse>> {
    let bytes = weight(request);
    admission.wait(bytes).await.map_err(|refusal| {
        if !resend::is_second(request) {
            return refusal;
        }
        let reason = format!("the reused connection to the resource closed before an answer, and the request could not be sent again: {}", refusal.reason);
        Arc::new(ErrorResponse::upstream_error(&admission.resource().key.id, reason))
    })
}

/// Sends a dispatched request to its resource. `sent_before`: for the second time.
async fn send_on(
    context: Arc<ConnectionContext>,
    mut admission: Admission,
    Outgoing { mut request, switch }: Outgoing,
    mut admitted: Admitted,
    sent_before: bool,
) -> Result<Response<ResponseBody>, Arc<ErrorResponse>> {
    if sent_before {
        resend::mark_second(&mut request);
    }
    let unanswered = request.body().unanswered();
    let (mut cold, mut marked) = (None, false);
    loop {
        let resource = admission.resource();
        let Admitted { mut in_flight, held } = admitted;
        let Some(target) = choose(&context, resource) else {
            // The last endpoint has just gone.
            if !in_flight.counts() {
                return Err(Arc::new(static_response::not_up(resource)));
            }
            drop(in_flight);
            admitted = wait_again(&mut admission, &request).await?;
            continue;
        };
        in_flight.set_endpoint(&target);
        if target.endpoint.address_of == AddressOf::Service && !marked {
            // It may come back by a Service.
            request.headers_mut().append(header::VIA, resource.mark.clone());
            marked = true;
        }
        let sent = {
            let how = forwarded_headers(&context, resource);
            let mut sending = std::pin::pin!(send(&context, &target, &mut request, how, switch.is_some()));
            match held {
                None => sending.await,
                Some((permit, how)) => {
                    cold = Some(how);
                    match Box::pin(timeout(PERMIT_TIMEOUT, &mut sending)).await {
                        Ok(sent) => sent,
                        Err(_) => {
                            drop(permit);
                            sending.await
                        }
                    }
                }
            }
        };
        match sent {
            Ok(answer) => return Ok(incoming(&context, answer, in_flight, unanswered, switch, cold)),
            Err(Unsent::Never(error)) => {
                tracing::debug!(resource = %resource.key.id, reason = %error, "failed to send a request; choosing an endpoint again");
                resource.mark_unreachable(&target, error.to_string());
                if !target.is_other_port() && resource.is_up() && !admission.is_over() {
                    // To another endpoint that is ready.
                    admitted = Admitted { in_flight, held: None };
                    continue;
                }
                if !in_flight.counts() {
                    return Err(Arc::new(static_response::not_up(resource)));
                }
                drop(in_flight);
                if target.is_other_port() {
                    // A port other than the probed one: no probe finds out when it accepts.
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "nothing tells when a port of a ready endpoint accepts"
                    )]
                    sleep_until((Instant::now() + PORT_RETRY_DELAY).min(admission.deadline())).await;
                }
                admitted = wait_again(&mut admission, &request).await?;
            }
            Err(Unsent::Client(_) | Unsent::Perhaps(_)) if context.progress.body_stalled() => {
                return Err(Arc::new(ErrorResponse::stalled(
                    &resource.key.id,
                    context.progress.timeouts().stall,
                )));
            }
            Err(Unsent::Client(reason)) => {
                let reason = format!("its body ended with an error: {reason}");
                return Err(Arc::new(ErrorResponse::malformed(reason)));
            }
            Err(Unsent::Perhaps(error)) => {
                return Err(Arc::new(ErrorResponse::upstream_error(&resource.key.id, error)));
            }
        }
    }
}

pub(super) fn choose(context: &ConnectionContext, resource: &ResourceHandle) -> Option<Arc<EndpointTarget>> {
    let snapshot = resource.snapshot.load();
    let target = snapshot.ready.get(context.pool.turn(snapshot.ready.len()))?;
    Some(target.on_port(context.origin.port.as_ref().and_then(|identity| identity.port.target)))
}

/// A request as it is sent to the resource.
struct Outgoing {
    /// Boxed: it is moved often.
    request: Box<Request<RequestBody>>,
    /// The client's side of a protocol switch, if it asks for one.
    switch: Option<OnUpgrade>,
}

/// The request as it is sent to the resource. In HTTP/1.1 its host and the fields about its client are written with its head.
fn outgoing(
    context: &ConnectionContext,
    resource: &ResourceHandle,
    path: Option<http::uri::PathAndQuery>,
    request: Request<Incoming>,
) -> Outgoing {
    let (mut parts, body) = request.into_parts();
    let protocol = upgrade::requested_protocol(&parts.headers, parts.version);
    let switch = protocol.as_ref().and_then(|_| parts.extensions.remove::<OnUpgrade>());
    parts.extensions.clear();
    let grpc = parts.version == Version::HTTP_2 && is_grpc(&parts.headers);
    // On a resource's own port the client's protocol is kept: the resource may speak no other.
    let http2 = parts.version == Version::HTTP_2 && (grpc || context.origin.port.is_some());
    // HTTP/1.1 requires a Host; a request without one is sent on as HTTP/1.0.
    let has_host = parts.uri.authority().is_some() || parts.headers.contains_key(header::HOST);
    let http10 = parts.version == Version::HTTP_10 && !has_host;
    let by_library = http2 || switch.is_some();
    if let Some(authority) = parts.uri.authority().filter(|_| by_library || path.is_some()) {
        // An authority takes precedence over a Host header.
        if let Ok(host) = HeaderValue::try_from(authority.as_str()) {
            parts.headers.insert(header::HOST, host);
        }
    }
    let trailers = grpc || headers::takes_trailers(&parts.headers);
    if parts.version == Version::HTTP_2 {
        // The library refuses the others.
        parts.headers.remove(header::TE);
        parts.headers.remove("http2-settings");
    } else {
        headers::strip(&mut parts.headers);
    }
    if !http2 && parts.version == Version::HTTP_2 {
        headers::join_cookies(&mut parts.headers);
    }
    if switch.is_some() && !body.is_end_stream() && body.size_hint().exact().is_none() {
        // Set here: hyper would take a GET or HEAD to have no body.
        parts.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    // hyper answers 100-continue when the body is read: the resource need not. Any other is the resource's to refuse.
    let is_continue = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if parts.headers.get_all(header::EXPECT).iter().all(is_continue) {
        parts.headers.remove(header::EXPECT);
    }
    if by_library {
        headers::forwarded(&mut parts.headers, &context.origin.peer, forwarded_headers(context, resource));
    }
    if let Some(protocol) = protocol.filter(|_| switch.is_some()) {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(header::UPGRADE, protocol);
    }
    if trailers {
        parts.headers.insert(header::TE, HeaderValue::from_static("trailers"));
        if !http2 {
            parts.headers.append(header::CONNECTION, HeaderValue::from_static("te"));
        }
    }
    parts.version = match (http2, http10) {
        (true, _) => Version::HTTP_2,
        (false, true) => Version::HTTP_10,
        (false, false) => Version::HTTP_11,
    };
    parts.uri = match path {
        None if !by_library => parts.uri,
        None => parts.uri.path_and_query().cloned().map_or(Uri::from_static("/"), Uri::from),
        Some(path) => Uri::from(path),
    };
    let request = Box::new(Request::from_parts(parts, RequestBody::from_client(body, context)));
    Outgoing { request, switch }
}

/// How the headers about the client are forwarded.
///
/// On a resource's own port they are passed on as the resource would get them without the DLX, and the resource decides
/// whom to trust; with trusted proxies, those of other peers are replaced, on every port.
pub(super) fn forwarded_headers(context: &ConnectionContext, resource: &ResourceHandle) -> ForwardedHeaders {
    let own_port = context.origin.port.is_some();
    let believed = context.origin.trusted || own_port && context.identifier.peers.is_empty();
    if !believed {
        return ForwardedHeaders::Replace;
    }
    let default = if own_port { ForwardedHeaders::Preserve } else { ForwardedHeaders::Append };
    resource.snapshot.load().settings.forwarded_headers.unwrap_or(default)
}

fn is_grpc(headers: &http::HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Rare branches are boxed: the future is as large as its largest branch, and is moved as a whole.
async fn send(
    context: &ConnectionContext,
    target: &EndpointTarget,
    request: &mut Request<RequestBody>,
    how: ForwardedHeaders,
    switch: bool,
) -> Result<Answer, Unsent> {
    if switch {
        return Box::pin(upgrade::send(target, request)).await.map(|response| match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => Answer::Switched(response),
            _ => Answer::Http(response.map(|body| FromResource::Library(LibraryBody::new(body, false)))),
        });
    }
    if request.version() == Version::HTTP_2 {
        move_host(request);
        return Box::pin(context.pool.send_http2(target, request)).await.map(|response| {
            Answer::Http(response.map(|body| FromResource::Library(LibraryBody::new(body, true))))
        });
    }
    let response = http1::send(&context.pool, target, request, (how, &context.origin.peer)).await?;
    Ok(Answer::Http(response.map(FromResource::Http1)))
}

/// HTTP/2 has the host in the URI. A request that was not sent the first time has it there already.
fn move_host(request: &mut Request<RequestBody>) {
    if request.uri().authority().is_some() && !request.headers().contains_key(header::HOST) {
        return;
    }
    let host = request.headers_mut().remove(header::HOST);
    let host = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let built = Uri::builder().scheme("http").authority(host).path_and_query(path).build();
    if let Ok(uri) = built {
        *request.uri_mut() = uri;
    }
}

/// The answer as the client gets it.
fn incoming(
    context: &Arc<ConnectionContext>,
    answer: Answer,
    in_flight: InFlight,
    unanswered: Option<Unanswered>,
    switch: Option<OnUpgrade>,
    cold: Option<ColdStart>,
) -> Response<ResponseBody> {
    let resource = in_flight.resource().clone();
    let mut response = match answer {
        Answer::Http(mut response) => {
            let http1 = context.socket.is_some();
            let protocol = (http1 && response.status() == StatusCode::UPGRADE_REQUIRED)
                .then(|| response.headers_mut().remove(header::UPGRADE))
                .flatten();
            // Those of HTTP/1.1 were read without them.
            if matches!(response.body(), FromResource::Library(_))
                || response.status() == StatusCode::UPGRADE_REQUIRED
            {
                headers::strip(response.headers_mut());
            }
            if let Some(protocol) = protocol {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                response.headers_mut().insert(header::UPGRADE, protocol);
            }
            *response.version_mut() = Version::HTTP_11;
            let withheld = http1
                && response.status() == StatusCode::NOT_MODIFIED
                && headers::says_length(response.headers());
            let response = ResponseBody::through(response, in_flight, unanswered);
            if withheld { response.map(|_| ResponseBody::Withheld) } else { response }
        }
        Answer::Switched(response) => upgrade::switch(response, switch, in_flight, context.clone()),
    };
    if let Some(cold) = cold
        && let Ok(value) = HeaderValue::try_from(first_byte(&resource, cold))
    {
        response.headers_mut().append(HeaderName::from_static("server-timing"), value);
    }
    response
}

/// Notes that the answer to a request that was held has begun; the `Server-Timing` of it.
pub(super) fn first_byte(resource: &Arc<ResourceHandle>, cold: ColdStart) -> String {
    let (cold, first) = resource.decide(|view| view.add_first_byte(cold));
    if let Some(took) = first {
        resource.carry_out(Effect::FirstByte(took));
    }
    timing(cold)
}

/// The phases of the wait, in milliseconds: `hold;dur=812.4, wake;dur=811.0, decide;dur=0.1, ...`.
fn timing(cold: ColdStart) -> String {
    let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
    let mut text = format!("hold;dur={:.1}", ms(cold.hold));
    let wake = cold.wake.map(|wake| ("wake", ms(wake)));
    let phases = cold.phases.millis().map(|(phase, ms)| (phase.name(), ms));
    for (name, ms) in wake.into_iter().chain(phases) {
        // Writing to a string does not fail.
        let _ = write!(text, ", {name};dur={ms:.1}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_was_not_sent_keeps_its_host() {
        let mut request =
            Request::get("/a?b").header(header::HOST, "a.test:81").body(RequestBody::Empty).unwrap();
        for _ in 0..2 {
            move_host(&mut request);
            assert_eq!(request.uri(), "http://a.test:81/a?b");
        }
    }
}
