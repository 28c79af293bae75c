//! For whom a request is: whose port it came in on, whom a trusted peer names, or whose its host is.

pub(crate) mod head;
mod named;
mod peers;
mod port;

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Instant,
};

use head::{coded, length};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version, header, uri::PathAndQuery};
use named::find_by_headers;
pub(crate) use peers::TrustedProxies;
pub(crate) use peers::{Network, address, client};
use tokio::sync::Semaphore;

use crate::{
    answer::ErrorResponse,
    driver::FollowedPlugins,
    state::{PortOwner, ResourceHandle, Resources, is_host},
};

/// Connections that wait at once on ports of which nobody knows yet whose they are; more are not waited for.
const MAX_UNASSIGNED: usize = 1024;

/// Finds out for whom requests are.
#[derive(Debug)]
pub(crate) struct Identifier {
    plugins: Arc<FollowedPlugins>,
    resources: Arc<Resources>,
    /// Whose headers are believed.
    pub(crate) peers: TrustedProxies,
    /// The namespace of a resource that a header names without one.
    default_namespace: Option<String>,
    /// Connections that wait on ports of which nobody knows yet whose they are.
    pub(crate) waiting_for_owner: Semaphore,
}

/// Where the requests of a connection come from.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// Who asks, as `X-Forwarded-For` has it: made once for all requests of the connection.
    pub(crate) peer: HeaderValue,
    /// Whether its headers are believed.
    pub(crate) trusted: bool,
    /// Whose port it came in on, where it is not the shared one.
    pub(crate) port: Option<PortOwner>,
}

/// For whom a request is.
#[derive(Debug)]
pub(crate) struct Identified {
    /// The resource.
    pub(crate) resource: Arc<ResourceHandle>,
    /// The path and query to ask it for, where not the request's own.
    pub(crate) path: Option<PathAndQuery>,
}

// === impl Identifier ===

impl Identifier {
    /// Believes the headers of `peers`.
    pub(crate) fn new(
        plugins: Arc<FollowedPlugins>,
        resources: Arc<Resources>,
        peers: TrustedProxies,
        default_namespace: Option<String>,
    ) -> Arc<Self> {
        let waiting_for_owner = Semaphore::new(MAX_UNASSIGNED);
        Arc::new(Self { plugins, resources, peers, default_namespace, waiting_for_owner })
    }

    /// Whether a request's headers decide for whom it is: those of a trusted peer may name a resource.
    pub(crate) fn needs_headers(&self, origin: &Origin) -> bool {
        origin.port.is_none() && origin.trusted
    }

    /// For whom a request is as far as is known now; `Ok(None)`: nobody. `headers` are there when its head was read as a
    /// whole; without them it stays open for whom a trusted peer's request is.
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
                // Perhaps it is new: asked once more, then a miss.
                Err(refusal) if refusal.status == StatusCode::NOT_FOUND => return Ok(None),
                found => return found,
            }
        }
        let resource = host.and_then(|host| table.by_host(host));
        Ok(resource.map(|resource| Identified { resource: resource.clone(), path: None }))
    }

    /// For whom a request is; the plugins are asked once more where nobody has its host.
    ///
    /// # Errors
    ///
    /// It is nobody's (404), or cannot be taken as it is (400).
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
        self.plugins.ask_again(Instant::now()).await;
        if let Some(identified) = self.find(origin, host, headers)? {
            return Ok(identified);
        }
        Err(ErrorResponse::unknown_host(match host {
            Some(host) => format!("no resource has the host {host:?}"),
            None => "the request names no host".to_owned(),
        }))
    }
}

/// Heads or tails.
fn draw() -> bool {
    RandomState::new().hash_one(()) & 1 == 0
}

/// The host that a request is for, if it names one.
fn host<B>(request: &Request<B>) -> Result<Option<&str>, ErrorResponse> {
    let headers = request.headers();
    if request.method() == Method::CONNECT {
        return Err(ErrorResponse::malformed("CONNECT is not what this is for"));
    }
    if coded(headers) {
        return Err(ErrorResponse::malformed("its transfer coding is not chunked alone"));
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    if let Some(first) = lengths.next() {
        let first = length(first.as_bytes())?;
        if lengths.any(|other| !length(other.as_bytes()).is_ok_and(|other| other == first)) {
            return Err(ErrorResponse::malformed("it has two lengths"));
        }
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(ErrorResponse::malformed("it has two Host headers"));
    }
    // An absolute form, or HTTP/2's :authority, is stronger than a Host header (RFC 9112 3.2.2).
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
    // An empty Host is what a target without a host has (RFC 9112 3.2); any other has to be one.
    if authority.is_some_and(|authority| !authority.is_empty() && !is_host(authority)) {
        return Err(ErrorResponse::malformed("its Host is no host name"));
    }
    Ok(authority)
}
