//! Finds the resource of a request: by the port it came in on, the headers of a trusted peer, or its host.

pub(crate) mod chunks;
pub(crate) mod head;
mod named;
mod peers;
mod port;

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Instant,
};

use head::{Head, check_method, coded, length};
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, Version, header, uri::PathAndQuery,
};
use named::find_by_headers;
pub(crate) use peers::TrustedProxies;
pub(crate) use peers::{Network, address, client, is_about_client};
use tokio::sync::Semaphore;

use crate::{
    answer::ErrorResponse,
    driver::FollowedPlugins,
    state::{PortOwner, ResourceHandle, Resources, WakeCause, is_host},
};

/// How many connections may wait on ports without a known owner.
const MAX_UNASSIGNED: usize = 1024;

/// Finds the resources of requests.
#[derive(Debug)]
pub(crate) struct Identifier {
    plugins: Arc<FollowedPlugins>,
    resources: Arc<Resources>,
    /// The peers whose headers are trusted.
    pub(crate) peers: TrustedProxies,
    /// The namespace of a resource that a header names without one.
    default_namespace: Option<String>,
    /// Permits to wait on a port without a known owner.
    pub(crate) waiting_for_owner: Semaphore,
}

/// The origin of the requests of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// The client's address as in `X-Forwarded-For`: made once for all requests of the connection.
    pub(crate) peer: HeaderValue,
    /// Whether its headers are trusted.
    pub(crate) trusted: bool,
    /// The owner of the port it came in on, unless it is the shared one.
    pub(crate) port: Option<PortOwner>,
}

/// The resource of a request.
#[derive(Debug)]
pub(crate) struct Identified {
    /// The resource.
    pub(crate) resource: Arc<ResourceHandle>,
    /// The path and query to send, if not the request's own.
    pub(crate) path: Option<PathAndQuery>,
}

// === impl Identifier ===

impl Identifier {
    /// Trusts the headers of `peers`.
    pub(crate) fn new(
        plugins: Arc<FollowedPlugins>,
        resources: Arc<Resources>,
        peers: TrustedProxies,
        default_namespace: Option<String>,
    ) -> Arc<Self> {
        let waiting_for_owner = Semaphore::new(MAX_UNASSIGNED);
        Arc::new(Self { plugins, resources, peers, default_namespace, waiting_for_owner })
    }

    /// Whether headers may name the resource: those of a trusted peer may.
    pub(crate) fn needs_headers(&self, origin: &Origin) -> bool {
        origin.port.is_none() && origin.trusted
    }

    /// The resource of a request, as far as is known now; `Ok(None)`: none. `headers` are given once the whole head was
    /// read; without them the resource of a trusted peer's request stays open.
    ///
    /// # Errors
    ///
    /// A trusted peer names resources in a way that cannot be understood.
    pub(crate) fn find(
        &self,
        origin: &Origin,
        host: Option<&str>,
        headers: Option<(&HeaderMap, &Uri)>,
    ) -> Result<Option<Identified>, ErrorResponse> {
        if let Some(identity) = &origin.port {
            return Ok(Some(Identified { resource: identity.resource.clone(), path: None }));
        }
        let table = self.resources.table();
        if origin.trusted {
            let Some((headers, uri)) = headers else { return Ok(None) };
            match find_by_headers(&table, headers, uri, self.default_namespace.as_deref(), draw) {
                Ok(None) => {}
                // Perhaps it is new: the plugins are asked once more before the answer is 404.
                Err(refusal) if refusal.status == StatusCode::NOT_FOUND => return Ok(None),
                found => return found,
            }
        }
        let resource = host.and_then(|host| table.by_host(host));
        Ok(resource.map(|resource| Identified { resource: resource.clone(), path: None }))
    }

    /// The resource of a request that names it by its host alone. `None`: there is none, or a trusted peer's header names
    /// it, as `has` says.
    pub(crate) fn find_by_host(
        &self,
        origin: &Origin,
        host: &str,
        has: impl Fn(&HeaderName) -> bool,
    ) -> Option<Arc<ResourceHandle>> {
        if let Some(identity) = &origin.port {
            return Some(identity.resource.clone());
        }
        let table = self.resources.table();
        if origin.trusted && table.name_headers.iter().any(|by| has(&by.name)) {
            return None;
        }
        table.by_host(host).cloned()
    }

    /// The cause of the wake by a request with this head.
    pub(crate) fn wake_cause(&self, origin: &Origin, head: &Head<'_, '_>, host: &str) -> WakeCause {
        let headers = head
            .fields
            .iter()
            .filter_map(|field| Some((field.name.parse().ok()?, HeaderValue::from_bytes(field.value).ok()?)));
        let client = client(&self.peers, &origin.peer, &headers.collect());
        WakeCause::request(client, head.method, host, head.target)
    }

    /// The resource of a request; if no resource has its host, the plugins are asked once more.
    ///
    /// # Errors
    ///
    /// No resource has its host (404), or it is malformed (400).
    pub(crate) async fn identify<B>(
        &self,
        origin: &Origin,
        request: &Request<B>,
    ) -> Result<Identified, ErrorResponse> {
        let host = host(request)?;
        let headers = Some((request.headers(), request.uri()));
        if let Some(identified) = self.find(origin, host, headers)? {
            return Ok(identified);
        }
        Box::pin(self.plugins.ask_again(Instant::now())).await;
        if let Some(identified) = self.find(origin, host, headers)? {
            return Ok(identified);
        }
        Err(ErrorResponse::unknown_host(match host {
            Some(host) => format!("no resource has the host {host:?}"),
            None => "the request names no host".to_owned(),
        }))
    }
}

/// A coin toss.
fn draw() -> bool {
    RandomState::new().hash_one(()) & 1 == 0
}

/// The host that a request names, if any.
fn host<B>(request: &Request<B>) -> Result<Option<&str>, ErrorResponse> {
    let headers = request.headers();
    check_method(request.method().as_str())?;
    if coded(headers) {
        return Err(ErrorResponse::malformed("its Transfer-Encoding is not exactly chunked"));
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    if let Some(first) = lengths.next() {
        let first = length(first.as_bytes())?;
        if lengths.any(|other| !length(other.as_bytes()).is_ok_and(|other| other == first)) {
            return Err(ErrorResponse::malformed("it has two different Content-Length values"));
        }
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(ErrorResponse::malformed("it has two Host headers"));
    }
    // An absolute form, or HTTP/2's :authority, takes precedence over a Host header (RFC 9112 3.2.2).
    let authority = match (request.uri().authority(), host) {
        (Some(authority), _) => Some(authority.as_str()),
        (None, Some(host)) => {
            Some(host.to_str().map_err(|_| ErrorResponse::malformed("its Host header is not text"))?)
        }
        (None, None) => None,
    };
    if authority.is_none() && request.version() == Version::HTTP_11 {
        return Err(ErrorResponse::malformed("it has no Host header"));
    }
    // A target without a host has an empty Host (RFC 9112 3.2); any other must be a host.
    if authority.is_some_and(|authority| !authority.is_empty() && !is_host(authority)) {
        return Err(ErrorResponse::malformed("its Host is no host name"));
    }
    Ok(authority)
}
