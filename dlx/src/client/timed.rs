//! A client's connection as HTTP/1 and HTTP/2 are read and written on it: it ends when a timeout expires.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::{ConnectionProgress, ExpiredTimeout, Socket};

/// A connection with timeouts.
#[derive(Debug)]
pub(crate) struct Timed {
    socket: Socket,
    progress: Arc<ConnectionProgress>,
    /// Since when the client has taken nothing of what is written.
    blocked: Option<Instant>,
    /// Fires no later than the next timeout; seldom reset, since most timeouts move on before they expire.
    timer: Option<Pin<Box<Sleep>>>,
}

/// The next deadline and its timeout, by since when the client has taken nothing of what is written.
type Deadline = fn(&ConnectionProgress, Option<Instant>) -> Option<(Instant, ExpiredTimeout)>;

// === impl Timed ===

impl Timed {
    /// Wraps a connection.
    pub(crate) fn new(socket: Socket, progress: Arc<ConnectionProgress>) -> Self {
        Self { socket, progress, blocked: None, timer: None }
    }

    /// The timeout that has expired; otherwise the task is woken when one may have.
    fn poll_expired(&mut self, cx: &mut Context<'_>, deadline_of: Deadline) -> Poll<ExpiredTimeout> {
        loop {
            let Some((deadline, expired)) = deadline_of(&self.progress, self.blocked) else {
                return Poll::Pending;
            };
            if deadline <= Instant::now() {
                return Poll::Ready(expired);
            }
            let timer = match &mut self.timer {
                Some(timer) => {
                    if timer.deadline() > deadline || timer.is_elapsed() {
                        timer.as_mut().reset(deadline);
                    }
                    timer
                }
                None =>
                {
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "that a client did nothing for a while is the event"
                    )]
                    self.timer.insert(Box::pin(sleep_until(deadline)))
                }
            };
            std::task::ready!(timer.as_mut().poll(cx));
        }
    }
}

impl AsyncRead for Timed {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        match Pin::new(&mut this.socket).poll_read(cx, buffer) {
            Poll::Ready(read) => {
                if buffer.filled().len() > before {
                    this.progress.note_bytes();
                }
                Poll::Ready(read)
            }
            Poll::Pending => loop {
                break match std::task::ready!(this.poll_expired(cx, ConnectionProgress::deadline)) {
                    // Its client gets GOAWAY first: what it sends until it has seen that is answered.
                    ExpiredTimeout::Idle if this.progress.is_http2() => {
                        this.progress.close();
                        continue;
                    }
                    // As if the client had closed it.
                    ExpiredTimeout::Idle | ExpiredTimeout::Closed => Poll::Ready(Ok(())),
                    ExpiredTimeout::Recheck => Poll::Pending,
                    ExpiredTimeout::Head | ExpiredTimeout::Stalled => {
                        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
                    }
                };
            },
        }
    }
}

impl AsyncWrite for Timed {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.socket).poll_write(cx, bytes);
        this.wrote(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.socket).poll_write_vectored(cx, slices);
        this.wrote(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

impl Timed {
    fn wrote(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.blocked = None;
            return written;
        }
        self.blocked.get_or_insert_with(Instant::now);
        std::task::ready!(self.poll_expired(cx, ConnectionProgress::writing));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::AsyncWriteExt,
        net::{TcpListener, TcpStream},
        time::timeout,
    };

    use super::*;
    use crate::client::{ConnectionSlots, Timeouts};

    /// The kernel does not watch this connection, as it does most.
    #[tokio::test(start_paused = true)]
    async fn writing_to_a_client_that_takes_nothing_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let socket = Socket::new(listener.accept().await.unwrap().0);
        let timeouts = Timeouts::default();
        let mut timed = Timed::new(socket, ConnectionProgress::new(timeouts, ConnectionSlots::new(1, 1)));
        let written = timeout(timeouts.stall * 2, timed.write_all(&vec![0; 64 << 20])).await;
        assert_eq!(written.expect("an end").unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
