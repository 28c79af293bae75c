//! Accepting connections on a socket that other processes may share.

use std::{
    future::poll_fn,
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    task::Poll,
    time::Duration,
};

use tokio::time::{Instant, sleep_until};
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
    mut take: impl FnMut(TcpStream, SocketAddr),
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut pass_on = |(stream, peer): (tokio::net::TcpStream, SocketAddr)| {
        // It is served on another runtime. An error: the connection is gone.
        if let Ok(stream) = stream.into_std() {
            take(stream, peer);
        }
    };
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => {
                // Whoever the kernel let in already is not to be reset by the close.
                while let Poll::Ready(Ok(accepted)) = poll_fn(|cx| Poll::Ready(listener.poll_accept(cx))).await {
                    pass_on(accepted);
                }
                return Ok(());
            }
            accepted = listener.accept() => match accepted {
                Ok(accepted) => pass_on(accepted),
                Err(error) if is_the_connections_own(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections for now");
                    sleep_until(Instant::now() + PAUSE).await;
                }
            }
        }
    }
}

/// Errors of one connection that was gone before it was accepted.
fn is_the_connections_own(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
