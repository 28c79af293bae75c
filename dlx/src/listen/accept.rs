//! Accepting connections on a socket that other processes may share.

use std::{
    future::poll_fn,
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::client::ConnectionSlots;

/// The pause when connections cannot be accepted for lack of descriptors or memory.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// A listening socket on the current runtime.
#[derive(Debug)]
pub(crate) struct Listener(tokio::net::TcpListener);

// === impl Listener ===

impl Listener {
    /// Wraps a listening socket. Call it on a tokio runtime.
    ///
    /// # Errors
    ///
    /// The socket cannot be registered with the runtime.
    pub(crate) fn new(listener: TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener).map(Self)
    }

    /// Accepts until `stop`, takes what the kernel has accepted by then, and closes its descriptor of the socket. Other
    /// processes that share the socket go on with it.
    pub(crate) async fn accept(
        self,
        stop: CancellationToken,
        slots: Arc<ConnectionSlots>,
        mut take: impl FnMut(TcpStream, SocketAddr, OwnedSemaphorePermit),
    ) {
        let Self(listener) = self;
        let mut pass_on = |(stream, peer): (tokio::net::TcpStream, SocketAddr), slot| {
            // It is served on another runtime. An error: the connection is gone.
            if let Ok(stream) = stream.into_std() {
                take(stream, peer, slot);
            }
        };
        let mut stopped = pin!(stop.cancelled());
        loop {
            let next = async {
                match listener.accept().await {
                    // Only once a client has connected: ports without clients take no slot.
                    Ok(accepted) => Ok((accepted, slots.take().await)),
                    Err(error) => Err(error),
                }
            };
            let next = tokio::select! {
                biased;
                () = &mut stopped => break,
                next = next => next,
            };
            match next {
                Ok((accepted, slot)) => pass_on(accepted, slot),
                Err(error) if is_the_connections_own(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection; retrying");
                    slots.close_longest_idle();
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "nothing tells when descriptors or memory are free again"
                    )]
                    sleep_until(Instant::now() + RETRY_DELAY).await;
                }
            }
        }
        // A close would reset what the kernel has accepted already.
        while let Some(slot) = slots.try_take()
            && let Poll::Ready(Ok(accepted)) = poll_fn(|cx| Poll::Ready(listener.poll_accept(cx))).await
        {
            pass_on(accepted, slot);
        }
    }
}

/// Errors of one connection that was gone before it was accepted.
fn is_the_connections_own(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
