//! One client's HTTP connection, version 1 or 2.

use std::{
    convert::Infallible,
    future::pending,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Request, Response, StatusCode};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::{Shutdown, shutdown};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::{
    Server, park,
    protocol::{ClientProtocol, detect_protocol},
    request::answer_request,
    requests::Requests,
    worker::WorkerState,
};
use crate::{
    client::{ConnectionGuard, ConnectionProgress, Socket, Stream, Streams, Timed, Tracked, alive},
    forward::{
        http::{ConnectionContext, Relayed, ResponseBody, relay},
        tcp,
    },
    identify::{Origin, address, head},
    state::PortOwner,
};

/// The flow-control window of an HTTP/2 stream: as much as the socket of a held request takes.
const STREAM_WINDOW: u32 = 64 * 1024;
/// How long a client that has its answer may go on sending.
const LINGER_TIMEOUT: Duration = Duration::from_secs(5);
/// Streams of one connection at once.
const MAX_STREAMS: u32 = 1024;
/// Bytes buffered of a stream's response while its client does not read: with the most streams, 64 MiB.
const MAX_STREAM_UNSENT: usize = 64 * 1024;

/// Serves a connection to its end.
pub(crate) async fn serve(
    server: Arc<Server>,
    open: ConnectionGuard,
    worker: Arc<WorkerState>,
    stream: TcpStream,
    peer: SocketAddr,
    identity: Option<PortOwner>,
) {
    let socket = Socket::new(stream);
    let guessed = identity.as_ref().is_some_and(|identity| identity.port.guessed);
    let progress = ConnectionProgress::new(server.timeouts, server.slots.clone());
    let _known = worker.clients.add(socket.clone(), progress.clone());
    // It is idle so far, and others may wait for its slot.
    server.slots.became_idle();
    let trusted = server.identifier.peers.trusts(peer.ip());
    let origin = Origin { peer: address(peer), trusted, port: identity };
    let mut to_hold = None;
    let examine = |bytes: &[u8]| to_hold = park::find_to_hold(&server.identifier, &origin, bytes);
    // It sent nothing, or less than a line, for too long.
    let Some(protocol) = detect_protocol(&socket, guessed, &progress, examine).await else { return };
    if let (ClientProtocol::Other, Some(identity)) = (protocol, &origin.port) {
        tracing::debug!(resource = %identity.resource.key.id, port = identity.port.listen, "forwarded as TCP: the client does not speak HTTP");
        progress.mark_upgraded();
        alive::want_reading(socket.stream(), Duration::ZERO);
        return Box::pin(tcp::serve(open, socket, identity.clone())).await;
    }
    let mut context = ConnectionContext {
        origin,
        identifier: server.identifier.clone(),
        draining: worker.draining.clone(),
        _open: open,
        pool: worker.pool.clone(),
        parked: Mutex::default(),
        socket: None,
        progress: progress.clone(),
    };
    if protocol == ClientProtocol::Http2 {
        progress.mark_http2();
        Box::pin(serve_http2(Arc::new(context), socket)).await;
    } else {
        if let Some(to_hold) = to_hold {
            let _busy = progress.begin();
            // An error: its client left.
            let Ok(parked) = park::park(to_hold, &socket).await else { return };
            context.parked = Mutex::new(Some(parked));
        }
        context.socket = Some(socket.clone());
        let mut timed = Timed::new(socket.clone(), progress.clone());
        let relayed = match server.relay {
            true => relay(&context, &mut timed, &socket).await,
            false => Relayed::HandedOver(Vec::new()),
        };
        if let Relayed::HandedOver(read) = relayed {
            let requests = Requests::new(socket.clone(), timed, read);
            Box::pin(serve_http1(Arc::new(context), requests)).await;
        }
        if !progress.is_upgraded() && socket.has_more() {
            Box::pin(linger(&socket)).await;
        }
    }
}

/// Reads for a while what a client still sends after its answer. A close with unread bytes is a reset, and so is the
/// reply to bytes after a close: either takes the answer away before the client has read it.
async fn linger(socket: &Socket) {
    // An error: it is gone.
    let _ = shutdown(socket.stream(), Shutdown::Write);
    let mut scrap = vec![0; 16 * 1024];
    let reading = async {
        while socket.stream().readable().await.is_ok() {
            match socket.stream().try_read(&mut scrap) {
                Ok(0) => return,
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
                _ => {}
            }
        }
    };
    // A timeout is fine.
    let _ = timeout_at(Instant::now() + LINGER_TIMEOUT, reading).await;
}

/// Answers a request; the connection is busy until the end of the answer. (Boxed, as it is moved often.)
async fn answer(
    context: Arc<ConnectionContext>,
    request: Box<Request<Incoming>>,
) -> Result<Response<Tracked<ResponseBody>>, Infallible> {
    let progress = context.progress.clone();
    let busy = progress.begin();
    let socket = context.socket.clone();
    let response = answer_request(context, request).await;
    progress.mark_answered();
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        progress.mark_upgraded();
        if let Some(socket) = &socket {
            alive::want_reading(socket.stream(), Duration::ZERO);
        }
    }
    Ok(response.map(|body| {
        let share = body.share().cloned();
        Tracked::new(body, Stream::current(), share, busy)
    }))
}

async fn serve_http1(context: Arc<ConnectionContext>, requests: Requests) {
    let progress = context.progress.clone();
    let service = service_fn(move |request| answer(context.clone(), Box::new(request)));
    let connection = http1::Builder::new()
        // `Timed` has the timeouts.
        .header_read_timeout(None)
        .max_buf_size(head::MAX_HEAD_BYTES)
        .max_headers(head::MAX_FIELDS)
        // Copying a small body costs less than writing two buffers.
        .writev(false)
        .serve_connection(TokioIo::new(requests), service)
        .with_upgrades();
    tokio::select! {
        // The client's fault; hyper has answered where it can.
        ended = connection => if let Err(error) = ended {
            tracing::trace!(%error, "connection failed");
        },
        // While a body waits for its resource after the answer, hyper does not notice that the socket is closed.
        () = progress.wait_for_close() => {}
    }
}

async fn serve_http2(context: Arc<ConnectionContext>, socket: Socket) {
    let draining = context.draining.clone();
    let identity = context.origin.port.clone();
    let stall = context.progress.timeouts().stall;
    let progress = context.progress.clone();
    let timed = Timed::new(socket, progress.clone());
    let service = service_fn(move |request| answer(context.clone(), Box::new(request)));
    let mut connection = http2::Builder::new(Streams { stall })
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_send_buf_size(MAX_STREAM_UNSENT)
        .max_header_list_size(head::MAX_HEAD_BYTES as u32)
        .keep_alive_interval(Duration::from_secs(60))
        .serve_connection(TokioIo::new(timed), service);
    let mut connection = Pin::new(&mut connection);
    tokio::select! {
        ended = connection.as_mut() => {
            if let Err(error) = ended {
                tracing::trace!(%error, "connection failed");
            }
            return;
        }
        () = draining.cancelled() => connection.as_mut().graceful_shutdown(),
        // The port may belong to another resource from now on: clients have to connect again.
        () = gone(identity) => connection.as_mut().graceful_shutdown(),
        () = progress.wait_for_close() => connection.as_mut().graceful_shutdown(),
    }
    if let Err(error) = connection.await {
        tracing::trace!(%error, "connection failed");
    }
}

/// Returns when no plugin lists the resource that owns the port any more.
async fn gone(identity: Option<PortOwner>) {
    match identity {
        Some(identity) => identity.resource.gone().await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt, net::TcpListener, time::timeout};

    use super::*;
    use crate::stages::{DlxConfig, Stages};

    /// Neither a silent client nor one that may be about to speak HTTP/2 keeps its connection for ever.
    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_is_closed() {
        let server = Stages::new(DlxConfig::default()).server;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for bytes in [&b""[..], b"PRI * HTT"] {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (stream, peer) = listener.accept().await.unwrap();
            client.try_write(bytes).unwrap();
            let open = server.slots.open(server.slots.try_take().unwrap());
            let served = serve(server.clone(), open, WorkerState::new(&server), stream, peer, None);
            timeout(server.timeouts.idle * 2, served).await.expect("an end");
            assert!(!matches!(client.read(&mut [0; 8]).await, Ok(1..)));
        }
    }
}
