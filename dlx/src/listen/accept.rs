//! Accepting connections on a socket that other processes may share.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::net::{SocketFlags, acceptfrom_with};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::client::{ConnectionSlots, alive};

/// The pause when connections cannot be accepted for lack of descriptors or memory.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// A listening socket on the current runtime.
#[derive(Debug)]
pub(super) struct Listener {
    socket: AsyncFd<TcpListener>,
    /// How long a client may leave bytes unread; 0: for ever.
    stall: Duration,
    /// The socket had no connection once since its options were set: those that come now have inherited them.
    inherits: AtomicBool,
}

// === impl Listener ===

impl Listener {
    /// Takes over a listening socket. Connections inherit its options: the kernel closes those whose client is gone, or has
    /// left bytes unread for `stall`, unless that is 0. Call it on the runtime that accepts.
    ///
    /// # Errors
    ///
    /// The socket cannot be registered with the runtime.
    pub(super) fn new(listener: TcpListener, stall: Duration) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        alive::watch_client(&listener, stall);
        #[expect(
            deprecated,
            reason = "a TcpListener keeps the promise that its successor asks for in an unsafe block"
        )]
        let socket = AsyncFd::with_interest(listener, Interest::READABLE)?;
        Ok(Self { socket, stall, inherits: AtomicBool::new(false) })
    }

    /// Accepts until `stop`, takes what the kernel has accepted by then, and closes its descriptor of the socket. Other
    /// processes that share the socket go on with it.
    pub(super) async fn accept(
        self,
        stop: CancellationToken,
        slots: Arc<ConnectionSlots>,
        take: impl Fn(TcpStream, SocketAddr, OwnedSemaphorePermit),
    ) {
        let mut stopped = pin!(stop.cancelled());
        let mut accepted = None;
        loop {
            let next = async {
                if accepted.is_none() {
                    let next = self.socket.async_io(Interest::READABLE, |_| self.try_accept());
                    accepted = Some(next.await?);
                }
                // Only once a client has connected: ports without clients take no slot.
                Ok(slots.take().await)
            };
            let next = tokio::select! {
                biased;
                () = &mut stopped => break,
                next = next => next,
            };
            match next {
                Ok(slot) => {
                    if let Some((stream, peer)) = accepted.take() {
                        take(stream, peer, slot);
                    }
                }
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
            && let Some((stream, peer)) = accepted.take().or_else(|| self.try_accept().ok())
        {
            take(stream, peer, slot);
        }
    }

    /// Accepts a connection that the kernel has accepted.
    fn try_accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (stream, peer) = match acceptfrom_with(self.socket.get_ref(), flags) {
            Ok(accepted) => accepted,
            Err(error) => {
                let error = io::Error::from(error);
                if error.kind() == io::ErrorKind::WouldBlock {
                    self.inherits.store(true, Ordering::Relaxed);
                }
                return Err(error);
            }
        };
        let stream = TcpStream::from(stream);
        if !self.inherits.load(Ordering::Relaxed) {
            // It may be older than the options of the listening socket.
            alive::watch_client(&stream, self.stall);
        }
        let peer = peer.ok_or(io::ErrorKind::ConnectionAborted)?.try_into()?;
        Ok((stream, peer))
    }
}

/// Errors of one connection that was gone before it was accepted.
fn is_the_connections_own(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests {
    use rustix::net::sockopt::{socket_keepalive, tcp_user_timeout};
    use tokio::sync::mpsc;

    use super::*;

    /// A supervisor hands over listening sockets on which clients wait already.
    #[tokio::test]
    async fn connections_from_before_the_options_get_them_too() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let mut clients = vec![TcpStream::connect(address).unwrap()];
        let listener = Listener::new(socket, Duration::from_secs(7)).unwrap();
        let (sender, mut taken) = mpsc::unbounded_channel();
        let accepting =
            listener.accept(CancellationToken::new(), ConnectionSlots::new(2, 0), move |stream, _, slot| {
                sender.send((stream, slot)).unwrap()
            });
        tokio::spawn(accepting);
        for _ in 0..2 {
            let (stream, _slot) = taken.recv().await.unwrap();
            assert!(socket_keepalive(&stream).unwrap());
            assert_eq!(tcp_user_timeout(&stream).unwrap(), 7000);
            clients.push(TcpStream::connect(address).unwrap());
        }
    }

    /// Each stop takes what the kernel has accepted: its client would be reset otherwise.
    #[tokio::test]
    async fn the_stop_takes_what_waits() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let listener = Listener::new(socket, Duration::ZERO).unwrap();
        let clients = [(); 3].map(|()| TcpStream::connect(address).unwrap());
        let stop = CancellationToken::new();
        stop.cancel();
        let (sender, mut taken) = mpsc::unbounded_channel();
        listener
            .accept(stop, ConnectionSlots::new(3, 0), move |_, peer, slot| {
                sender.send((peer, slot)).unwrap();
            })
            .await;
        for client in clients {
            assert_eq!(taken.recv().await.unwrap().0, client.local_addr().unwrap());
        }
        TcpStream::connect(address).unwrap_err();
    }
}
