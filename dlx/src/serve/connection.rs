//! One client's HTTP connection, version 1 or 2.

use std::{
    convert::Infallible,
    future::pending,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::Request;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{net::TcpStream, time::timeout};

use super::{
    Identity, Socket, alive, head, park,
    requests::Requests,
    spoken::{Spoken, spoken},
};
use crate::{
    dlx::{Dlx, Open},
    proxy::{Caller, Pool, address, handle},
    tcp,
};

/// How long a connection may take to send a head, idle ones included. Longer than the keep-alive of the load balancers
/// that stand in front (Google's: 600 s), so that they close theirs first.
const HEAD_TIMEOUT: Duration = Duration::from_secs(620);
/// What a stream of HTTP/2 may send before it is read: as much as a held request's socket takes.
const STREAM_WINDOW: u32 = 64 * 1024;
/// Streams of one connection at once.
const STREAMS: u32 = 1024;
/// What is kept of a stream's answer for a client that does not read: with as many streams as there may be, 64 MiB.
const STREAM_UNSENT: usize = 64 * 1024;

/// Serves a connection to its end.
pub async fn serve(
    dlx: Arc<Dlx>,
    open: Open,
    pool: Arc<Pool>,
    stream: TcpStream,
    peer: SocketAddr,
    identity: Option<Identity>,
) {
    let socket = Socket::new(stream);
    let guessed = identity.as_ref().is_some_and(|identity| identity.port.guessed);
    // An error: it has said nothing yet, or less than a line.
    let Ok(spoken) = timeout(HEAD_TIMEOUT, spoken(&socket, guessed)).await else { return };
    if let (Spoken::Other, Some(identity)) = (spoken, &identity) {
        tracing::debug!(resource = %identity.entry.key.id, port = identity.port.listen, "passed on as TCP: it is no HTTP");
        return Box::pin(tcp::serve(open, socket, identity.clone())).await;
    }
    alive::want_reading(socket.stream());
    let trusted = dlx.peers.trusts(peer.ip());
    let peer = address(peer);
    let mut caller =
        Caller { dlx, open, pool, peer, trusted, identity, parked: Mutex::default(), socket: None };
    if spoken == Spoken::Http2 {
        Box::pin(serve_http2(Arc::new(caller), socket)).await;
    } else {
        // An error: its client left.
        let Ok(parked) = park::park(&caller, &socket).await else { return };
        caller.parked = Mutex::new(parked);
        caller.socket = Some(socket.clone());
        Box::pin(serve_http1(Arc::new(caller), socket)).await;
    }
}

async fn serve_http1(caller: Arc<Caller>, socket: Socket) {
    let service = service_fn(move |request: Request<Incoming>| {
        let caller = caller.clone();
        async move { Ok::<_, Infallible>(handle(caller, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(head::LONGEST)
        .max_headers(head::FIELDS)
        // One copy of a small body costs less than a second piece to write.
        .writev(false)
        .serve_connection(TokioIo::new(Requests::new(socket)), service)
        .with_upgrades();
    // Its client's doing; answered by hyper where there is an answer.
    if let Err(error) = connection.await {
        tracing::trace!(%error, "a connection broke");
    }
}

async fn serve_http2(caller: Arc<Caller>, socket: Socket) {
    let draining = caller.dlx.draining.clone();
    let identity = caller.identity.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let caller = caller.clone();
        async move { Ok::<_, Infallible>(handle(caller, request).await) }
    });
    let mut connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .max_concurrent_streams(STREAMS)
        .max_send_buf_size(STREAM_UNSENT)
        .max_header_list_size(head::LONGEST as u32)
        .keep_alive_interval(Duration::from_secs(60))
        .serve_connection(TokioIo::new(socket), service);
    let mut connection = Pin::new(&mut connection);
    tokio::select! {
        ended = connection.as_mut() => {
            if let Err(error) = ended {
                tracing::trace!(%error, "a connection broke");
            }
            return;
        }
        () = draining.cancelled() => connection.as_mut().graceful_shutdown(),
        // The next connection is for whoever has the port then.
        () = gone(identity) => connection.as_mut().graceful_shutdown(),
    }
    if let Err(error) = connection.await {
        tracing::trace!(%error, "a connection broke");
    }
}

/// Returns when the resource whose own port it is is listed no more.
async fn gone(identity: Option<Identity>) {
    match identity {
        Some(identity) => identity.entry.gone().await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use scaler_types::protocol::Rules;
    use tokio::{io::AsyncReadExt, net::TcpListener, runtime::Handle};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{hold::Limits, shared::Shared};

    /// Neither a client that says nothing nor one that may be about to speak HTTP/2 has its connection for ever.
    #[tokio::test(start_paused = true)]
    async fn a_connection_that_says_nothing_is_closed() {
        let shared = Shared::new(
            Rules::default(),
            Handle::current(),
            Limits { requests: 1, bytes: 1 },
            daemon::wakes::Wakes::new(1),
        );
        let dlx = Arc::new(Dlx::new(shared, "test", CancellationToken::new()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for said in [&b""[..], b"PRI * HTT"] {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (stream, peer) = listener.accept().await.unwrap();
            client.try_write(said).unwrap();
            let open = Open::new(&dlx, dlx.places.clone().try_acquire_owned().unwrap());
            let served = serve(dlx.clone(), open, Pool::new(), stream, peer, None);
            timeout(HEAD_TIMEOUT * 2, served).await.expect("an end");
            assert!(!matches!(client.read(&mut [0; 8]).await, Ok(1..)));
        }
    }
}
