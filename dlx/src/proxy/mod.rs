//! The way of a request: for whom, may it go, to where, and back.

mod body;
mod dial;
mod forward;
mod habit;
mod head;
mod no_wake;
mod pool;
mod replay;
mod resend;
mod upgrade;
mod upload;
mod upstream;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

pub use body::Relay;
pub use dial::dial;
pub use forward::SOCKET_TAKES;
pub use head::address;
use http::{HeaderValue, Method, Request, Response, Version, header, uri::PathAndQuery};
use hyper::body::{Body, Incoming};
pub use no_wake::answer as no_wake_answer;
pub use pool::{Pool, explain};
pub use upload::Upload;

use crate::{
    answer::Refusal,
    dlx::{Dlx, Open},
    resource::Entry,
    route,
    serve::{Identity, Parked, Progress, Socket, head::length},
};

/// A request that came by an address of the same resource this often runs in circles.
const LOOP: usize = 5;

/// What the requests of one connection have in common.
#[derive(Debug)]
pub struct Caller {
    /// Everything.
    pub dlx: Arc<Dlx>,
    /// Counts the connection.
    pub open: Open,
    /// Connections to resources, of this thread.
    pub pool: Arc<Pool>,
    /// Who asks, as `X-Forwarded-For` has it: made once for all requests of the connection.
    pub peer: HeaderValue,
    /// Whether its headers are believed.
    pub trusted: bool,
    /// Whose port it came in on, where it is not the shared one.
    pub identity: Option<Identity>,
    /// What its first request was told, if that was held before the connection was served.
    pub parked: Mutex<Option<Parked>>,
    /// The connection, where it carries one request at a time.
    pub socket: Option<Socket>,
    /// What the connection is doing.
    pub progress: Arc<Progress>,
}

impl Caller {
    /// What the connection's first request was told while it was parked; once.
    fn take_parked(&self) -> Option<Parked> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A request that knows for whom it is.
struct Routed {
    entry: Arc<Entry>,
    /// The path to ask for, where not the request's own.
    path: Option<PathAndQuery>,
}

/// Answers one request.
pub async fn handle(caller: Arc<Caller>, request: Request<Incoming>) -> Response<Relay> {
    let version = request.version();
    let may_switch = version == Version::HTTP_11 && request.headers().contains_key(header::UPGRADE);
    let mut response = match route(&caller, &request).await {
        Ok(routed) => serve(&caller, routed, request).await,
        Err(refusal) => {
            // It may have been let go, and is sent nowhere.
            drop(caller.take_parked());
            refuse(&refusal, None)
        }
    };
    if may_switch && let Some(socket) = &caller.socket {
        socket.decide(response.status() == http::StatusCode::SWITCHING_PROTOCOLS);
    }
    if version <= Version::HTTP_11
        && caller.dlx.draining.is_cancelled()
        && response.status() != http::StatusCode::SWITCHING_PROTOCOLS
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

async fn serve(caller: &Arc<Caller>, routed: Routed, mut request: Request<Incoming>) -> Response<Relay> {
    let entry = routed.entry.clone();
    if request.headers().get_all(header::CONTENT_LENGTH).iter().nth(1).is_some()
        && let Some(length) = request.headers_mut().remove(header::CONTENT_LENGTH)
    {
        // They are equal, and said once from here on (RFC 9110 8.6). Of HTTP/1 the library has done it.
        request.headers_mut().insert(header::CONTENT_LENGTH, length);
    }
    if head::marks(request.headers(), &entry.mark) >= LOOP {
        return refuse(&Refusal::looped(&entry.key.id), Some(&entry));
    }
    if let Some(answer) = no_wake::answer_to(&entry, &request) {
        return no_wake::serve(caller, routed, request, answer).await;
    }
    entry.counts.arrived();
    let response = match forward::forward(caller.clone(), routed, request).await {
        Ok(response) => response,
        // What its client broke off is no answer of the resource's.
        Err(refusal) => {
            let of_resource = refusal.status != http::StatusCode::BAD_REQUEST;
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

/// Finds out for whom a request is.
async fn route(caller: &Caller, request: &Request<Incoming>) -> Result<Routed, Refusal> {
    if let Some(refusal) = refused(caller, request) {
        return Err(refusal.clone());
    }
    let headers = request.headers();
    if request.method() == Method::CONNECT {
        return Err(Refusal::malformed("CONNECT is not what this is for"));
    }
    if head::coded(headers) {
        return Err(Refusal::malformed("its transfer coding is not chunked alone"));
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    if let Some(first) = lengths.next() {
        let first = length(first.as_bytes())?;
        if lengths.any(|other| !length(other.as_bytes()).is_ok_and(|other| other == first)) {
            return Err(Refusal::malformed("it has two lengths"));
        }
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::malformed("it has two Host headers"));
    }
    // An absolute form, or HTTP/2's :authority, is stronger than a Host header (RFC 9112 3.2.2).
    let authority = match (request.uri().authority(), host) {
        (Some(authority), _) => Some(authority.as_str()),
        (None, Some(host)) => {
            Some(host.to_str().map_err(|_| Refusal::malformed("its Host header is not text"))?)
        }
        (None, None) => None,
    };
    if authority.is_none() && request.version() == Version::HTTP_11 {
        return Err(Refusal::malformed("it has no Host header"));
    }
    // An empty Host is what a target without a host has (RFC 9112 3.2); any other has to be one.
    if authority.is_some_and(|authority| !authority.is_empty() && !route::is_host(authority)) {
        return Err(Refusal::malformed("its Host is no host name"));
    }
    if let Some(identity) = &caller.identity {
        return Ok(Routed { entry: identity.entry.clone(), path: None });
    }
    if let Some(routed) = look_up(caller, request, authority)? {
        return Ok(routed);
    }
    caller.dlx.ask_again(Instant::now()).await;
    if let Some(routed) = look_up(caller, request, authority)? {
        return Ok(routed);
    }
    Err(Refusal::nobodys(match authority {
        Some(authority) => format!("no resource has the host {authority:?}"),
        None => "the request names no host".to_owned(),
    }))
}

/// What is to be answered where this stands in place of a head that is not taken: any other names its host.
fn refused<'a>(caller: &'a Caller, request: &Request<Incoming>) -> Option<&'a Refusal> {
    let names_host = !request.headers().is_empty() || request.uri().authority().is_some();
    let is_http11 = request.version() == Version::HTTP_11;
    caller.socket.as_ref()?.refusal().filter(|_| is_http11 && !names_host)
}

fn look_up(
    caller: &Caller,
    request: &Request<Incoming>,
    authority: Option<&str>,
) -> Result<Option<Routed>, Refusal> {
    let table = caller.dlx.table.load();
    if caller.trusted {
        let default = caller.dlx.default_namespace.as_deref();
        let draw = || caller.pool.draw();
        match route::named(&table, request.headers(), request.uri(), default, draw) {
            Ok(Some(named)) => return Ok(Some(Routed { entry: named.entry, path: named.path })),
            Ok(None) => {}
            // Perhaps it is new: asked once more, then a miss.
            Err(refusal) if refusal.status == http::StatusCode::NOT_FOUND => return Ok(None),
            Err(refusal) => return Err(refusal),
        }
    }
    let entry = authority.and_then(|authority| table.by_host(authority));
    Ok(entry.map(|entry| Routed { entry: entry.clone(), path: None }))
}

/// Bytes to reserve for a held request: its head, and what the socket may take of its body meanwhile.
fn weight<B: Body>(request: &Request<B>, socket_takes: u64) -> u64 {
    let head: usize =
        request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    let head = head + request.uri().path_and_query().map_or(1, |path| path.as_str().len());
    let hint = request.body().size_hint();
    let body =
        if request.body().is_end_stream() { 0 } else { hint.upper().unwrap_or(u64::MAX).min(socket_takes) };
    head as u64 + body
}
