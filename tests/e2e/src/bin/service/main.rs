//! The service that the tests scale: it writes down every request it was given, and dies of SIGTERM at once, so that
//! a scaler that stops it too early is found out; or, with `--drain`, ends as a careful one does.
//!
//! `service [--address IP,..] [--port P] [--lines-port P] [--name NAME] [--journal FILE|tcp:ADDRESS] [--start-after FILE] [--exit STATUS]
//! [--collect P] [--drain MS]`
//!
//! `--start-after` waits until the file exists before it listens.
//! `--collect` takes on that port what others write down to `tcp:ADDRESS`, and serves it at `/journal/NAME`.
//! With `--drain` it goes on for so long after SIGTERM, takes no more then, and ends once all has been answered.
//!
//! Answers carry the request's `x-request-id`, and `x-run`: the process that answered. Paths: `/slow/MS` waits,
//! `/metrics` counts the requests that were written down, and those of them that are not answered, for Prometheus,
//! `/busy` answers 200 after `/busy/on`, 204 after `/busy/off` and before both,
//! `/sink` reads the body and says how much, `/events/N/MS` streams N events, `/echo` upgrades to a connection that
//! echoes, `/ws` to a WebSocket that does, anything else answers at once; a call of gRPC is answered its own message.
//! HTTP/1.1 and HTTP/2 on the port; `--lines-port` answers each line with `RUN LINE`.

mod flags;
mod grpc;
mod journal;
mod websocket;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use e2e::wait::pause;
use futures_util::future::select_all;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
    upgrade,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
};

use self::{flags::Flags, journal::Journal};

type Answer = Response<BoxBody<Bytes, std::io::Error>>;

struct Service {
    name: String,
    run: String,
    journal: Journal,
    /// How many were written down.
    requests: AtomicU64,
    /// How many of those are not answered yet.
    in_flight: AtomicU64,
    /// Whether it says that it has work.
    busy: AtomicBool,
    /// What others have written down, by name.
    collected: Mutex<BTreeMap<String, String>>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::read()?;
    let run = std::process::id().to_string();
    let journal = Journal::open(flags.journal.as_deref(), &flags.name)?;
    let (requests, in_flight, collected) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::default());
    let (name, busy) = (flags.name, AtomicBool::new(false));
    let service = Arc::new(Service { name, run, journal, requests, in_flight, busy, collected });
    service.note("start", &service.run);
    while flags.start_after.as_ref().is_some_and(|file| !file.exists()) {
        pause(Duration::from_millis(10)).await;
    }
    if let Some(status) = flags.exit {
        eprintln!("service: exits with status {status}, as asked");
        std::process::exit(status);
    }
    let mut addresses = flags.addresses;
    if addresses.is_empty() {
        addresses.push(Ipv4Addr::LOCALHOST.into());
    }
    if let Some(port) = flags.lines_port {
        tokio::spawn(service.clone().serve_lines(listen(&addresses, port).await?));
    }
    if let Some(port) = flags.collect {
        tokio::spawn(service.clone().collect(listen(&addresses, port).await?));
    }
    let listeners = listen(&addresses, flags.port.unwrap_or_default()).await?;
    let stop = async {
        match flags.drain {
            // Without it a signal ends the process.
            None => std::future::pending().await,
            Some(drain) => {
                if let Ok(mut terminated) = signal(SignalKind::terminate()) {
                    terminated.recv().await;
                }
                pause(drain).await;
            }
        }
    };
    service.serve(listeners, stop).await
}

/// On each of these addresses.
async fn listen(addresses: &[IpAddr], port: u16) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for address in addresses {
        listeners.push(TcpListener::bind((*address, port)).await?);
    }
    Ok(listeners)
}

/// The next connection to any of them.
async fn accept(listeners: &[TcpListener]) -> io::Result<TcpStream> {
    let (accepted, ..) = select_all(listeners.iter().map(|listener| Box::pin(listener.accept()))).await;
    accepted.map(|(stream, _)| stream)
}

// === impl Service ===

impl Service {
    /// One write per line: the journal is whole however this process ends.
    fn note(&self, what: &str, id: &str) {
        self.journal.write(&format!("{what} {id}\n")).expect("writing the journal");
    }

    /// Serves until `stop`, and then what has come so far.
    async fn serve(
        self: Arc<Self>,
        listeners: Vec<TcpListener>,
        stop: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        let (builder, connections) = (auto::Builder::new(TokioExecutor::new()), GracefulShutdown::new());
        tokio::pin!(stop);
        loop {
            let stream = tokio::select! {
                // Those that are connected already are taken.
                biased;
                accepted = accept(&listeners) => accepted?,
                () = &mut stop => break,
            };
            stream.set_nodelay(true)?;
            let service = self.clone();
            let serve = service_fn(move |request| service.clone().answer(request));
            let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), serve).into_owned();
            let connection = connections.watch(connection);
            tokio::spawn(async move {
                let _ = connection.await;
            });
        }
        drop(listeners);
        connections.shutdown().await;
        Ok(())
    }

    async fn collect(self: Arc<Self>, listeners: Vec<TcpListener>) {
        while let Ok(stream) = accept(&listeners).await {
            let _ = stream.set_nodelay(true);
            tokio::spawn(self.clone().collect_from(stream));
        }
    }

    fn write_down(&self, name: &str, line: &str) {
        let mut all = self.collected.lock().unwrap_or_else(PoisonError::into_inner);
        let journal = all.entry(name.to_owned()).or_default();
        journal.push_str(line);
        journal.push('\n');
    }

    async fn collect_from(self: Arc<Self>, mut stream: TcpStream) {
        let (read, mut write) = stream.split();
        let mut lines = BufReader::new(read).lines();
        let Ok(Some(name)) = lines.next_line().await else { return };
        while let Ok(Some(line)) = lines.next_line().await {
            self.write_down(&name, &line);
            if write.write_all(b"\n").await.is_err() {
                return;
            }
        }
    }

    async fn serve_lines(self: Arc<Self>, listeners: Vec<TcpListener>) {
        while let Ok(stream) = accept(&listeners).await {
            tokio::spawn(self.clone().answer_lines(stream));
        }
    }

    async fn answer_lines(self: Arc<Self>, mut stream: TcpStream) {
        let (read, mut write) = stream.split();
        let mut lines = BufReader::new(read).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            self.note("request", &line);
            if write.write_all(format!("{} {line}\n", self.run).as_bytes()).await.is_err() {
                return;
            }
        }
    }

    fn answer_busy(&self, change: Option<&str>) -> Answer {
        if let Some(change) = change {
            self.busy.store(change == "on", Ordering::Relaxed);
        }
        let mut answer = text(String::new());
        if change.is_none() && !self.busy.load(Ordering::Relaxed) {
            *answer.status_mut() = StatusCode::NO_CONTENT;
        }
        answer
    }

    async fn answer(self: Arc<Self>, mut request: Request<Incoming>) -> Result<Answer, Infallible> {
        let id = request.headers().get("x-request-id").cloned();
        if let Some(id) = &id {
            self.in_flight.fetch_add(1, Ordering::Relaxed);
            self.requests.fetch_add(1, Ordering::Relaxed);
            self.note("request", id.to_str().unwrap_or("?"));
        }
        let path = request.uri().path().to_owned();
        let mut parts = path.trim_start_matches('/').split('/');
        let mut answer = match parts.next() {
            _ if grpc::is_call(&request) => grpc::answer(&mut request).await,
            Some("slow") => {
                pause(milliseconds(parts.next())).await;
                text(format!("{} {path}\n", self.name))
            }
            Some("busy") => self.answer_busy(parts.next()),
            Some("journal") => {
                let all = self.collected.lock().unwrap_or_else(PoisonError::into_inner);
                text(parts.next().and_then(|name| all.get(name)).cloned().unwrap_or_default())
            }
            Some("metrics") => {
                let count = self.requests.load(Ordering::Relaxed);
                let in_flight = self.in_flight.load(Ordering::Relaxed);
                text(format!(
                    "# TYPE service_requests_total counter\nservice_requests_total {count}\n\
                     # TYPE service_in_flight gauge\nservice_in_flight {in_flight}\n"
                ))
            }
            Some("sink") => {
                let mut length = 0_u64;
                while let Some(Ok(frame)) = request.body_mut().frame().await {
                    length += frame.data_ref().map_or(0, |data| data.len() as u64);
                }
                text(format!("{length}\n"))
            }
            Some("events") => {
                let count = parts.next().and_then(|count| count.parse().ok()).unwrap_or(3);
                events(count, milliseconds(parts.next()))
            }
            Some("echo") => echo(&mut request),
            Some("ws") => websocket::open(&mut request),
            _ => text(format!("{} {} {path}\n", self.name, request.method())),
        };
        let headers = answer.headers_mut();
        headers.insert("x-run", HeaderValue::from_str(&self.run).expect("a pid is a header value"));
        if let Some(id) = id {
            headers.insert("x-request-id", id);
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
        // What the tests want to know of the request as it arrived.
        for name in [header::HOST, header::FORWARDED, header::CONNECTION] {
            if let Some(value) = request.headers().get(&name) {
                answer.headers_mut().insert(
                    http::HeaderName::from_bytes(format!("x-saw-{name}").as_bytes()).expect("a header name"),
                    value.clone(),
                );
            }
        }
        Ok(answer)
    }
}

fn milliseconds(text: Option<&str>) -> Duration {
    Duration::from_millis(text.and_then(|text| text.parse().ok()).unwrap_or_default())
}

fn text(text: String) -> Answer {
    Response::new(Full::new(Bytes::from(text)).map_err(|never: Infallible| match never {}).boxed())
}

/// `count` events, one every `gap`.
fn events(count: u64, gap: Duration) -> Answer {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        for number in 0..count {
            if sender.send(Ok(Frame::data(Bytes::from(format!("data: {number}\n\n"))))).await.is_err() {
                return;
            }
            pause(gap).await;
        }
    });
    let body = StreamBody::new(Received(receiver)).boxed();
    let mut answer = Response::new(body);
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    answer
}

struct Received<T>(tokio::sync::mpsc::Receiver<T>);

impl<T> futures_core::Stream for Received<T> {
    type Item = T;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<T>> {
        self.0.poll_recv(context)
    }
}

/// Upgrades to a connection that echoes what it is sent.
fn echo(request: &mut Request<Incoming>) -> Answer {
    let upgraded = upgrade::on(request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgraded.await {
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
            let _ = tokio::io::copy(&mut read, &mut write).await;
        }
    });
    let mut answer = text(String::new());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    answer.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("echo"));
    answer
}
