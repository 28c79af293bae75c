//! A small HTTP service to be scaled: what the demo and the tests run.
//!
//! HTTP/1.1 and HTTP/2 in clear text on one port. `--help` has the flags, [`answer`] the paths. SIGTERM drains it: it no
//! longer accepts, finishes what is in flight and ends with status 0.

mod answer;
mod flags;
mod journal;
mod tcp;

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context as _, Result};
use clap::Parser;
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::{
    net::{TcpListener, TcpSocket},
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep_until},
};

use answer::Service;
use flags::Flags;
use journal::Journal;

/// Connections that may wait to be accepted; the kernel's own bound (net.core.somaxconn) is often lower.
const BACKLOG: u32 = 16_384;

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::disallowed_methods, reason = "the time before it listens is set")]
async fn main() -> Result<()> {
    let flags = Flags::parse();
    let mut terminated = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupted = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    allow_many_connections();
    let journal = Arc::new(Journal::open(flags.journal.as_deref())?);
    let end = async {
        tokio::select! { _ = terminated.recv() => {}, _ = interrupted.recv() => {} }
    };
    tokio::pin!(end);
    if !flags.start_delay.is_zero() {
        tokio::select! {
            () = sleep_until(Instant::now() + flags.start_delay) => {}
            () = &mut end => return Ok(()),
        }
    }
    let listen = |port| listen(SocketAddr::new(flags.bind, port));
    let listener = listen(flags.port)?;
    let tcp_listener = flags.tcp_port.map(listen).transpose()?;
    let service = Arc::new(Service::new(flags.name, flags.answer_delay, Arc::clone(&journal)));
    let connections = GracefulShutdown::new();
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http2().max_concurrent_streams(10_000);
    tokio::select! {
        () = accept_http(listener, &http, &service, &connections) => {}
        () = tcp::accept(tcp_listener, journal) => {}
        () = end => {}
    }
    // The listeners are closed by now.
    let in_flight = service.in_flight();
    connections.shutdown().await;
    eprintln!("hello: drained: {in_flight} requests were in flight, {} in all", service.requests());
    Ok(())
}

async fn accept_http(
    listener: TcpListener,
    http: &auto::Builder<TokioExecutor>,
    service: &Arc<Service>,
    connections: &GracefulShutdown,
) {
    loop {
        // An error is that connection's own (or no descriptor is left: the next one may find one).
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let service = Arc::clone(service);
        let service = service_fn(move |request| Arc::clone(&service).answer(request));
        let connection = http.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        // A client that breaks off is no news.
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            let _ = connection.await;
        });
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().with_context(|| format!("listening on {address}"))
}

fn allow_many_connections() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
