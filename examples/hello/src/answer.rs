//! What each path answers.
//!
//! | path | answer |
//! |---|---|
//! | `/` and any other | its name, pid, start time, and how many requests it has had |
//! | `/slow?ms=500` | the same, later |
//! | `/echo` | the body, as it comes |
//! | `/upload` | how many bytes the body had |
//! | `/stream?chunks=10&ms=100&bytes=16` | so many chunks, with a pause between them |
//! | `/exit?status=1` | nothing: the process ends |
//! | any with an `Upgrade` header (but `h2c`) | 101, then what is sent comes back |

use std::{
    convert::Infallible,
    pin::Pin,
    process,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{copy, split},
    time::{Instant, sleep_until},
};

use crate::journal::Journal;

/// The service behind the HTTP port.
pub struct Service {
    name: String,
    delay: Duration,
    started: Duration,
    journal: Arc<Journal>,
    requests: AtomicU64,
    in_flight: Arc<AtomicU64>,
}

type Answer = Response<Counted<BoxBody<Bytes, hyper::Error>>>;

/// A body that counts as in flight until it is sent or dropped.
pub struct Counted<B> {
    body: B,
    _in_flight: InFlight,
}

struct InFlight(Arc<AtomicU64>);

// === impl Service ===

impl Service {
    /// A service that starts now.
    pub fn new(name: String, delay: Duration, journal: Arc<Journal>) -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { name, delay, started, journal, requests: AtomicU64::new(0), in_flight: Arc::default() }
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Requests that are not answered yet.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Answers one request.
    pub async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Answer, Infallible> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let in_flight = InFlight(Arc::clone(&self.in_flight));
        let noted = request
            .headers()
            .get("x-request-id")
            .and_then(|id| id.to_str().ok())
            .map_or(Ok(()), |id| self.journal.request(id));
        let answer = match noted {
            Ok(()) => self.content(request).await,
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("the journal: {error}\n")),
        };
        Ok(answer.map(|body| Counted { body, _in_flight: in_flight }))
    }

    #[expect(clippy::disallowed_methods, reason = "how long an answer takes is what is asked for")]
    async fn content(&self, request: Request<Incoming>) -> Response<BoxBody<Bytes, hyper::Error>> {
        let uri = request.uri().clone();
        if let Some(protocol) = request.headers().get(header::UPGRADE).filter(|protocol| *protocol != "h2c") {
            return upgrade(protocol.clone(), request);
        }
        match uri.path() {
            "/slow" => {
                sleep_until(Instant::now() + Duration::from_millis(parameter(&uri, "ms").unwrap_or(500)))
                    .await;
                self.greeting()
            }
            "/echo" => Response::new(request.into_body().boxed()),
            "/upload" => upload(request.into_body()).await,
            "/stream" => {
                let chunks = Chunks {
                    left: parameter(&uri, "chunks").unwrap_or(10),
                    chunk: Bytes::from(vec![b'.'; parameter(&uri, "bytes").unwrap_or(16)]),
                    pause: Duration::from_millis(parameter(&uri, "ms").unwrap_or(100)),
                    wait: None,
                };
                Response::new(chunks.map_err(|never| match never {}).boxed())
            }
            "/exit" => process::exit(parameter(&uri, "status").unwrap_or(1)),
            _ => {
                if !self.delay.is_zero() {
                    sleep_until(Instant::now() + self.delay).await;
                }
                self.greeting()
            }
        }
    }

    fn greeting(&self) -> Response<BoxBody<Bytes, hyper::Error>> {
        let (pid, started, requests) = (process::id(), self.started.as_secs_f64(), self.requests());
        let greeting = format!(
            "{} from process {pid}, started at {started:.3}, request {requests} since then\n",
            self.name
        );
        text(StatusCode::OK, greeting)
    }
}

fn text(status: StatusCode, text: String) -> Response<BoxBody<Bytes, hyper::Error>> {
    let mut response = Response::new(Full::from(text).map_err(|never| match never {}).boxed());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

async fn upload(mut body: Incoming) -> Response<BoxBody<Bytes, hyper::Error>> {
    let mut bytes = 0_u64;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => bytes += frame.data_ref().map_or(0, |data| data.len() as u64),
            Err(error) => return text(StatusCode::BAD_REQUEST, format!("after {bytes} bytes: {error}\n")),
        }
    }
    text(StatusCode::OK, format!("{bytes} bytes\n"))
}

fn upgrade(protocol: HeaderValue, request: Request<Incoming>) -> Response<BoxBody<Bytes, hyper::Error>> {
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            let (mut read, mut write) = split(TokioIo::new(upgraded));
            // Ends when the client does.
            let _ = copy(&mut read, &mut write).await;
        }
    });
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, String::new());
    response.headers_mut().remove(header::CONTENT_TYPE);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(header::UPGRADE, protocol);
    response
}

/// A number from the query.
fn parameter<T: FromStr>(uri: &Uri, name: &str) -> Option<T> {
    uri.query()?
        .split('&')
        .find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name)?.1.parse().ok())
}

/// A body of equal chunks with pauses.
struct Chunks {
    left: u64,
    chunk: Bytes,
    pause: Duration,
    wait: Option<Pin<Box<tokio::time::Sleep>>>,
}

// === impl Chunks ===

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    #[expect(clippy::disallowed_methods, reason = "the pace of the chunks is what is asked for")]
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(wait) = &mut self.wait {
            ready!(wait.as_mut().poll(cx));
        }
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        self.wait = (self.left > 0).then(|| Box::pin(sleep_until(Instant::now() + self.pause)));
        Poll::Ready(Some(Ok(Frame::data(self.chunk.clone()))))
    }
}

// === impl Counted ===

impl<B: Body + Unpin> Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === impl InFlight ===

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
