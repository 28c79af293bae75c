//! The admin server: /healthz, /readyz, /metrics, and the daemon's own routes.

mod idle;
mod readiness;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::Future,
    hint, io,
    net::{IpAddr, SocketAddr, TcpListener},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    body::{Body, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use tokio::{sync::Semaphore, time::Instant};

use self::{
    idle::{Idle, Waits},
    readiness::Readiness,
};
use crate::token::Token;

/// A handler's response.
pub type Answer = Pin<Box<dyn Future<Output = Response<Full<Bytes>>> + Send>>;
/// Body read whole (1 MiB at most).
pub type Handler = Arc<dyn Fn(Request<Bytes>) -> Answer + Send + Sync>;
/// Says whether the daemon is ready, or why not.
pub type Ready = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Says what is wrong while the daemon does its work for others, a line each.
pub(crate) type Problems = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// The admin server, as it is put together.
pub struct Admin {
    registry: Registry,
    token: Option<Token>,
    ready: Ready,
    problems: Problems,
    keep_alive: bool,
    routes: BTreeMap<&'static str, BTreeMap<String, Handler>>,
}

/// The client's address: the other end of the socket, in the request's extensions. Headers that name the client are ignored.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// The longest body that is taken.
const LONGEST_BODY: usize = 1 << 20;
/// How long a client may take for a request's head, and again for its body; also how long an idle connection is kept.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the kernel keeps a connection whose client takes no answer.
const UNREAD: Duration = Duration::from_secs(30);
/// Where there is one more, the one that has been idle for longest is closed; if none is, it waits.
const CONNECTIONS: usize = 1024;
/// The pause after a failed accept (no descriptor left, say): what frees one is no event we could wait for.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// So many problems are shown on `/readyz`.
const MAX_PROBLEMS: usize = 50;

const SCHEME: &[u8] = b"Bearer ";
const HEALTHZ: &str = "/healthz";
const READYZ: &str = "/readyz";
const METRICS: &str = "/metrics";

// === impl Admin ===

impl Admin {
    /// `token`: what writes must carry as a bearer token; `None`: writes are taken from loopback only.
    pub fn new(registry: Registry, token: Option<Token>) -> Self {
        Self {
            registry,
            token,
            ready: Arc::new(|| Ok(())),
            problems: Arc::new(Vec::new),
            keep_alive: true,
            routes: BTreeMap::new(),
        }
    }

    /// GET routes are open; every other method is a write and wants the token.
    #[must_use]
    pub fn route(mut self, method: Method, path: &'static str, handler: Handler) -> Self {
        self.routes.entry(path).or_default().insert(method.to_string(), handler);
        self
    }

    /// `/readyz` answers 503 with the reason while this says so, and `scaler_ready` of this daemon is 0.
    #[must_use]
    pub fn ready_when(mut self, daemon: &'static str, ready: Ready) -> Self {
        self.registry.register_collector(Box::new(Readiness { daemon, ready: Arc::clone(&ready) }));
        self.ready = ready;
        self
    }

    /// `/readyz` shows these, too, and answers what it does without them.
    #[must_use]
    pub fn problems(mut self, problems: Problems) -> Self {
        self.problems = problems;
        self
    }

    /// One request per connection: for a server that another one takes over from.
    #[must_use]
    pub fn closing(mut self) -> Self {
        self.keep_alive = false;
        self
    }

    /// Serves until the process ends.
    ///
    /// # Errors
    ///
    /// The listener cannot be used.
    pub async fn serve(self, listener: TcpListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let idle = Arc::<Idle>::default();
        let keep_alive = self.keep_alive;
        let admin = Arc::new(self);
        loop {
            let (socket, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "the admin server cannot take a connection");
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "nothing tells when descriptors or memory are free again"
                    )]
                    tokio::time::sleep_until(Instant::now() + ACCEPT_AGAIN).await;
                    continue;
                }
            };
            if places.available_permits() == 0 {
                idle.close_longest();
            }
            let place = Arc::clone(&places).acquire_owned().await.map_err(io::Error::other)?;
            // Only a guard against clients that take no answer: without it they are merely kept longer.
            let unread = UNREAD.as_millis().try_into().unwrap_or(u32::MAX);
            let _ = rustix::net::sockopt::set_tcp_user_timeout(&socket, unread);
            let (admin, waits) = (Arc::clone(&admin), Waits::new(&idle));
            tokio::spawn(async move {
                let _place = place;
                let service = service_fn(|request: Request<Incoming>| {
                    let admin = Arc::clone(&admin);
                    let busy = waits.pause();
                    async move {
                        let answer = admin.answer(request, peer).await;
                        drop(busy);
                        Ok::<_, Infallible>(answer)
                    }
                });
                let served = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .keep_alive(keep_alive)
                    .header_read_timeout(PATIENCE)
                    .serve_connection(TokioIo::new(socket), service);
                tokio::select! {
                    served = served => if let Err(error) = served {
                        tracing::debug!(%peer, %error, "an admin connection ended");
                    },
                    () = waits.closed() => tracing::debug!(%peer, "closed an idle admin connection to make room"),
                }
            });
        }
    }

    async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        if let Some(refusal) = refuse_rebound(&head, peer) {
            return refusal;
        }
        // hyper sends no body in answer to HEAD.
        let method = if head.method == Method::HEAD { Method::GET } else { head.method.clone() };
        let path = head.uri.path();
        if method == Method::GET {
            match path {
                "/" => return self.list(),
                HEALTHZ => return text(StatusCode::OK, "ok\n".to_owned()),
                READYZ => return self.readiness(),
                METRICS => return self.metrics(),
                _ => {}
            }
        }
        let Some(methods) = self.routes.get(path) else {
            let built_in = ["/", HEALTHZ, READYZ, METRICS].contains(&path);
            return if built_in {
                not_allowed(&["GET"])
            } else {
                refuse(StatusCode::NOT_FOUND, "no such route; GET / lists them")
            };
        };
        let Some(handler) = methods.get(method.as_str()) else {
            return not_allowed(&methods.keys().map(String::as_str).collect::<Vec<_>>());
        };
        if method != Method::GET
            && let Some(refusal) = self.refuse_write(&head.headers, peer)
        {
            return refusal;
        }
        let too_long = || refuse(StatusCode::PAYLOAD_TOO_LARGE, "a body has 1 MiB at most");
        // A client that says so beforehand need not send it.
        if body.size_hint().lower() > LONGEST_BODY as u64 {
            return too_long();
        }
        let body = match tokio::time::timeout(PATIENCE, Limited::new(body, LONGEST_BODY).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => return too_long(),
            Ok(Err(error)) => {
                return refuse(StatusCode::BAD_REQUEST, &format!("the body cannot be read: {error}"));
            }
            Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, "the body did not come within 10s"),
        };
        let mut request = Request::from_parts(head, body);
        request.extensions_mut().insert(Peer(peer));
        handler(request).await
    }

    /// Why this write is not taken, if so.
    fn refuse_write(&self, headers: &http::HeaderMap, peer: SocketAddr) -> Option<Response<Full<Bytes>>> {
        let Some(token) = &self.token else {
            return if !peer.ip().to_canonical().is_loopback() {
                Some(refuse(
                    StatusCode::FORBIDDEN,
                    "write requests are accepted from loopback only: to send them from elsewhere, start the daemon with --admin-token-file",
                ))
            } else if headers.contains_key(header::ORIGIN) {
                // A page in a browser on this host comes from loopback too; it cannot leave this header out.
                Some(refuse(
                    StatusCode::FORBIDDEN,
                    "write requests with an Origin header (from web pages) are refused: start the daemon with --admin-token-file to allow them",
                ))
            } else {
                None
            };
        };
        let given = headers.get(header::AUTHORIZATION).map_or(&b""[..], HeaderValue::as_bytes);
        let given =
            given.split_at_checked(SCHEME.len()).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(SCHEME));
        if given.is_some_and(|(_, given)| same(given, token.now().as_bytes())) {
            return None;
        }
        let mut refusal = refuse(
            StatusCode::UNAUTHORIZED,
            "a write request needs the header Authorization: Bearer TOKEN, with the token in --admin-token-file",
        );
        refusal.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        Some(refusal)
    }

    /// 503 where the daemon serves no namespace; the problems of some are only shown: one namespace's file must not take
    /// the others' requests from a DLX.
    fn readiness(&self) -> Response<Full<Bytes>> {
        let (status, mut page) = match (self.ready)() {
            Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
            Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        };
        let problems = (self.problems)();
        for problem in problems.iter().take(MAX_PROBLEMS) {
            let line: Vec<_> = problem.split_whitespace().collect();
            page += &format!("problem: {}\n", line.join(" "));
        }
        if let Some(more) = problems.len().checked_sub(MAX_PROBLEMS).filter(|more| *more > 0) {
            page += &format!("and {more} problems more: GET /api/v1/problems has all\n");
        }
        text(status, page)
    }

    fn list(&self) -> Response<Full<Bytes>> {
        let own = self
            .routes
            .iter()
            .flat_map(|(path, methods)| methods.keys().map(move |method| format!("{method} {path}")));
        let built_in = [HEALTHZ, READYZ, METRICS].iter().map(|path| format!("GET {path}"));
        json(StatusCode::OK, &serde_json::json!({ "routes": built_in.chain(own).collect::<Vec<_>>() }))
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let mut page = String::new();
        match prometheus_client::encoding::text::encode(&mut page, &self.registry) {
            Ok(()) => {
                answer(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", page)
            }
            Err(error) => {
                refuse(StatusCode::INTERNAL_SERVER_ERROR, &format!("the metrics cannot be written: {error}"))
            }
        }
    }
}

/// A JSON answer.
pub fn json<T: serde::Serialize>(status: StatusCode, body: &T) -> Response<Full<Bytes>> {
    match serde_json::to_string(body) {
        Ok(body) => answer(status, "application/json", body + "\n"),
        Err(error) => refuse(
            StatusCode::INTERNAL_SERVER_ERROR,
            &format!("the answer cannot be written as JSON: {error}"),
        ),
    }
}

/// A refusal in JSON: `error` is the status in words, `reason` says what to do.
pub fn refuse(status: StatusCode, reason: &str) -> Response<Full<Bytes>> {
    let error = status.canonical_reason().unwrap_or("error").to_lowercase();
    let body = serde_json::json!({ "error": error, "reason": reason }).to_string();
    answer(status, "application/json", body + "\n")
}

/// Why a request from this very host is not answered, if so. A page in a browser here may have had its name point at
/// 127.0.0.1: then the browser lets it read what is answered. It sends the page's name as `Host`.
fn refuse_rebound(head: &http::request::Parts, peer: SocketAddr) -> Option<Response<Full<Bytes>>> {
    if !peer.ip().to_canonical().is_loopback() {
        return None;
    }
    let own = head.uri.authority().map(|authority| authority.as_str().as_bytes());
    let mut named =
        own.into_iter().chain(head.headers.get_all(header::HOST).iter().map(HeaderValue::as_bytes));
    let foreign = named.find(|host| !std::str::from_utf8(host).is_ok_and(names_no_site))?;
    Some(refuse(
        StatusCode::FORBIDDEN,
        &format!(
            "refused a request from loopback: its Host {:?} may be a web site's (DNS rebinding); use an address, localhost or a Service's name (NAME or NAME.NAMESPACE.svc)",
            String::from_utf8_lossy(foreign)
        ),
    ))
}

/// Whether a `Host` cannot be a web site's name: an address, localhost, a name without a dot, or a Service's in a cluster.
fn names_no_site(host: &str) -> bool {
    if host.is_empty() || host.parse::<SocketAddr>().is_ok() {
        return true;
    }
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let name = name.map_or(host, |(name, _)| name);
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    address.parse::<IpAddr>().is_ok()
        || !name.contains('.')
        || [".localhost", ".svc", ".svc.cluster.local"].iter().any(|end| name.ends_with(end))
}

fn not_allowed(allowed: &[&str]) -> Response<Full<Bytes>> {
    let allowed = allowed.join(", ");
    let mut refusal = refuse(StatusCode::METHOD_NOT_ALLOWED, &format!("this route takes {allowed}"));
    if let Ok(allowed) = HeaderValue::try_from(allowed) {
        refusal.headers_mut().insert(header::ALLOW, allowed);
    }
    refusal
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    answer(status, "text/plain; charset=utf-8", body)
}

fn answer(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Compares in a time that depends on the lengths alone.
fn same(given: &[u8], expected: &[u8]) -> bool {
    given.len() == expected.len()
        && hint::black_box(given.iter().zip(expected).fold(0, |seen, (a, b)| seen | (a ^ b))) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_header_may_name_from_loopback() {
        for host in [
            "",
            "127.0.0.1",
            "127.0.0.1:8092",
            "10.1.2.3:8091",
            "[::1]:8092",
            "[::1]",
            "::1",
            "localhost",
            "LOCALHOST:8092",
            "localhost.:8092",
            "admin.localhost:8092",
            "scaler-dlx:8091",
            "scaler-dlx.scaler.svc:8091",
            "scaler-dlx.scaler.svc.cluster.local",
        ] {
            assert!(names_no_site(host), "{host}");
        }
        for host in [
            "attacker.example",
            "attacker.example:8092",
            "127.0.0.1.attacker.example",
            "localhost.attacker.example:8092",
            "svc.attacker.example",
            "attacker.example.:8092",
            "a.b:c",
        ] {
            assert!(!names_no_site(host), "{host}");
        }
    }

    /// Probes by a pod's address, and a Prometheus, do not come from loopback.
    #[test]
    fn only_loopback_is_asked_what_it_means() {
        let request = |uri: &str, hosts: &[&str]| {
            let mut request = Request::get(uri);
            for host in hosts {
                request = request.header(header::HOST, *host);
            }
            request.body(()).unwrap().into_parts().0
        };
        let refused = |peer: &str, uri: &str, hosts: &[&str]| {
            let refusal = refuse_rebound(&request(uri, hosts), peer.parse().unwrap());
            refusal.map(|refusal| refusal.status().as_u16())
        };
        assert_eq!(refused("127.0.0.1:5", "/metrics", &["attacker.example"]), Some(403));
        assert_eq!(refused("[::ffff:127.0.0.1]:5", "/metrics", &["attacker.example"]), Some(403));
        assert_eq!(refused("[::1]:5", "/metrics", &["localhost", "attacker.example"]), Some(403));
        assert_eq!(refused("127.0.0.1:5", "http://attacker.example/metrics", &["localhost"]), Some(403));
        assert_eq!(refused("127.0.0.1:5", "/metrics", &["localhost:8092"]), None);
        assert_eq!(refused("127.0.0.1:5", "/metrics", &[]), None);
        assert_eq!(refused("10.0.0.9:5", "/metrics", &["metrics.example"]), None);
    }
}
