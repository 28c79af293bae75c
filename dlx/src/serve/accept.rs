//! Accepting connections on a socket that other processes may share.

use std::{
    future::poll_fn,
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// The pause when connections cannot be accepted for want of something (descriptors, memory).
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts until `stop`, takes in what the kernel has accepted until then, and closes its descriptor of the socket.
/// Whoever shares the socket goes on with it.
///
/// # Errors
///
/// The socket cannot be waited for.
pub async fn accept(
    listener: TcpListener,
    stop: CancellationToken,
    places: Arc<Semaphore>,
    mut take: impl FnMut(TcpStream, SocketAddr, OwnedSemaphorePermit),
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut pass_on = |(stream, peer): (tokio::net::TcpStream, SocketAddr), place| {
        // It is served on another runtime. An error: the connection is gone.
        if let Ok(stream) = stream.into_std() {
            take(stream, peer, place);
        }
    };
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => {
                // Whoever the kernel let in already is not to be reset by the close.
                while let Ok(place) = places.clone().try_acquire_owned()
                    && let Poll::Ready(Ok(accepted)) = poll_fn(|cx| Poll::Ready(listener.poll_accept(cx))).await
                {
                    pass_on(accepted, place);
                }
                return Ok(());
            }
            (accepted, place) = next(&listener, &places) => match accepted {
                Ok(accepted) => pass_on(accepted, place),
                Err(error) if is_the_connections_own(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections for now");
                    #[expect(clippy::disallowed_methods, reason = "nothing tells when descriptors or memory are free again")]
                    sleep_until(Instant::now() + PAUSE).await;
                }
            }
        }
    }
}

/// The next connection, and its place. Where there is none, connections wait in the kernel.
async fn next(
    listener: &tokio::net::TcpListener,
    places: &Arc<Semaphore>,
) -> (io::Result<(tokio::net::TcpStream, SocketAddr)>, OwnedSemaphorePermit) {
    let place = match places.clone().try_acquire_owned() {
        Ok(place) => place,
        Err(_) => {
            tracing::warn!(
                "half of the descriptors that this process may have are taken by clients; others wait"
            );
            match places.clone().acquire_owned().await {
                Ok(place) => place,
                // Closed never.
                Err(_) => std::future::pending().await,
            }
        }
    };
    (listener.accept().await, place)
}

/// Errors of one connection that was gone before it was accepted.
fn is_the_connections_own(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
