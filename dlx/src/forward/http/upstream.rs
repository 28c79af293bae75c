//! A connection to a resource that the HTTP library reads and writes, while the pool checks its state; and what the kernel
//! says of an idle one.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use rustix::net::{RecvFlags, recv};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Instant,
};

/// A connection to a resource. Clones are the same connection; they stay on one thread, so the lock is never contended.
#[derive(Clone, Debug)]
pub(crate) struct Upstream(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    stream: TcpStream,
    /// When the other end was found to have closed it, by an end or a reset.
    closed: Option<Instant>,
}

/// The state of an idle connection, from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IdleState {
    /// It is open, and nothing came.
    Quiet,
    /// It is open, and something came.
    Readable,
    /// The other end closed it, or it broke.
    Closed,
}

// === impl Upstream ===

impl Upstream {
    /// Wraps a connection.
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self(Arc::new(Mutex::new(Inner { stream, closed: None })))
    }

    /// Asks the kernel rather than the runtime, which notices a close only when it polls all connections again.
    pub(crate) fn peek_state(&self) -> IdleState {
        let inner = self.lock();
        if inner.closed.is_some() {
            return IdleState::Closed;
        }
        peek_state(&inner.stream)
    }

    /// When the other end was found to have closed it.
    pub(crate) fn closed(&self) -> Option<Instant> {
        self.lock().closed
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for Upstream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut inner = self.lock();
        let before = buffer.filled().len();
        let read = Pin::new(&mut inner.stream).poll_read(cx, buffer);
        match &read {
            Poll::Ready(Ok(())) if buffer.filled().len() == before && buffer.remaining() > 0 => {
                inner.closed = Some(Instant::now());
            }
            Poll::Ready(Err(error)) if is_closed(error) => inner.closed = Some(Instant::now()),
            _ => {}
        }
        read
    }
}

impl AsyncWrite for Upstream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.lock();
        let written = Pin::new(&mut inner.stream).poll_write(cx, bytes);
        written.map(|written| untaken(written, bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.lock();
        let written = Pin::new(&mut inner.stream).poll_write_vectored(cx, slices);
        written.map(|written| untaken(written, slices.iter().map(|slice| slice.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.lock().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.lock().stream).poll_shutdown(cx)
    }
}

/// The state of an idle connection.
pub(crate) fn peek_state(stream: &TcpStream) -> IdleState {
    match recv(stream, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((_, 1..)) => IdleState::Readable,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => IdleState::Quiet,
        Ok(_) | Err(_) => IdleState::Closed,
    }
}

/// Bytes that the other end does not take any more are discarded as if they were written: the answer that it sent before
/// it closed is still to be read, and hyper reads nothing after a failed write.
fn untaken(written: io::Result<usize>, all: usize) -> io::Result<usize> {
    match written {
        Err(error) if is_closed(&error) => Ok(all),
        written => written,
    }
}

/// Whether an error says that the other end closed the connection. A timeout does not.
pub(crate) fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    matches!(error.kind(), ConnectionReset | ConnectionAborted | BrokenPipe)
}
