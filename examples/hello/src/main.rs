//! A small HTTP service to scale: it takes its time to start, says who it is, and ends when it is told to.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    process,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use clap::Parser;
use http_body_util::Full;
use hyper::{Response, server::conn::http1, service::service_fn};
use hyper_util::{rt::TokioIo, server::graceful::GracefulShutdown};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::Instant,
};

/// A small HTTP service: answers every request with its name, its process id and how many it has answered
#[derive(Parser)]
#[command(version)]
struct Flags {
    /// Where it listens
    #[arg(long, value_name = "PORT")]
    port: u16,
    /// The address it listens on
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    bind: IpAddr,
    /// What it answers with
    #[arg(long, default_value = "hello", value_name = "TEXT")]
    text: String,
    /// How long it takes until it listens, as a service that has something to load
    #[arg(long, default_value = "0s", value_parser = scaler_types::duration::parse, value_name = "DURATION")]
    start_delay: Duration,
    /// How long each answer takes
    #[arg(long, default_value = "0s", value_parser = scaler_types::duration::parse, value_name = "DURATION")]
    answer_delay: Duration,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let flags = Arc::new(Flags::parse());
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        () = tokio::time::sleep_until(Instant::now() + flags.start_delay) => {}
        _ = terminated.recv() => return Ok(()),
    }
    let address = SocketAddr::new(flags.bind, flags.port);
    let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
    let answered = Arc::new(AtomicU64::new(0));
    let connections = GracefulShutdown::new();
    loop {
        let socket = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            _ = terminated.recv() => break,
        };
        socket.set_nodelay(true)?;
        let (flags, answered) = (Arc::clone(&flags), Arc::clone(&answered));
        let service = service_fn(move |_| {
            let (flags, answered) = (Arc::clone(&flags), Arc::clone(&answered));
            async move {
                if !flags.answer_delay.is_zero() {
                    tokio::time::sleep_until(Instant::now() + flags.answer_delay).await;
                }
                let number = answered.fetch_add(1, Ordering::Relaxed) + 1;
                let text = format!(
                    "{} from process {}, request {number} since it started\n",
                    flags.text,
                    process::id()
                );
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
            }
        });
        let connection =
            connections.watch(http1::Builder::new().serve_connection(TokioIo::new(socket), service));
        // A client that breaks its connection off breaks nothing else.
        tokio::spawn(async move { drop(connection.await) });
    }
    // What it has begun to answer it answers; then it ends.
    drop(listener);
    connections.shutdown().await;
    Ok(())
}
