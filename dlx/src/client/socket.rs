//! A client's connection, used from two sides: the relay or the HTTP library reads and writes it, and the task that holds
//! its request waits for its end.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    task::{Context, Poll, Waker, ready},
};

use rustix::net::{RecvFlags, Shutdown, recv, shutdown};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

use crate::answer::ErrorResponse;

/// How much is read at once into memory that must be cleared first, which should not cost more than the call.
const MAX_READ: usize = 16 * 1024;

/// A client's connection. Clones are the same connection.
#[derive(Clone, Debug)]
pub(crate) struct Socket(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    stream: TcpStream,
    /// The readiness was cleared: bytes may be there although nothing signals them.
    cleared: AtomicBool,
    /// The answer to what came last, if that was refused.
    refusal: OnceLock<ErrorResponse>,
    /// How a request that asked to switch protocols was answered: [`SWITCHED`] or [`NOT_SWITCHED`].
    decision: AtomicU8,
    /// Its client sends more than was read.
    more: AtomicBool,
    /// The task to wake when that is known.
    undecided: Mutex<Option<Waker>>,
}

const SWITCHED: u8 = 1;
const NOT_SWITCHED: u8 = 2;

// === impl Socket ===

impl Socket {
    /// Takes a connection over.
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self(Arc::new(Inner {
            stream,
            cleared: AtomicBool::new(false),
            refusal: OnceLock::new(),
            decision: AtomicU8::new(0),
            more: AtomicBool::new(false),
            undecided: Mutex::default(),
        }))
    }

    /// The stream.
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.0.stream
    }

    /// Refuses what came last, and everything after it.
    pub(crate) fn refuse(&self, refusal: ErrorResponse) {
        // Set once: nothing follows.
        let _ = self.0.refusal.set(refusal);
    }

    /// The answer to what came last, if that was refused.
    pub(crate) fn refusal(&self) -> Option<&ErrorResponse> {
        self.0.refusal.get()
    }

    /// Notes that its client is about to send bytes that the DLX will not read.
    pub(crate) fn note_more(&self) {
        self.0.more.store(true, Ordering::Relaxed);
    }

    /// Whether its client sends, or is about to send, bytes that the DLX will not read.
    pub(crate) fn has_more(&self) -> bool {
        let unread = || {
            recv(&self.0.stream, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT)
                .is_ok_and(|(_, len)| len > 0)
        };
        self.0.more.load(Ordering::Relaxed) || unread()
    }

    /// A request for a protocol switch is being answered. Until then nothing after it is read.
    pub(crate) fn decide(&self, switched: bool) {
        self.0.decision.store(if switched { SWITCHED } else { NOT_SWITCHED }, Ordering::Release);
        if let Some(reader) = self.0.undecided.lock().unwrap_or_else(PoisonError::into_inner).take() {
            reader.wake();
        }
    }

    /// Whether the protocol was switched, once that is known; taken once. Until then `cx`'s task is woken later.
    pub(crate) fn take_decision(&self, cx: &Context<'_>) -> Option<bool> {
        *self.0.undecided.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        match self.0.decision.swap(0, Ordering::AcqRel) {
            0 => None,
            decision => Some(decision == SWITCHED),
        }
    }

    /// Waits until the client has closed its side, unread bytes or not.
    pub(crate) async fn closed(&self) {
        let stream = &self.0.stream;
        loop {
            match stream.ready(Interest::READABLE).await {
                Ok(ready) if ready.is_read_closed() => return,
                Ok(_) => self.clear(),
                Err(_) => return,
            }
        }
    }

    /// Waits until the connection broke. A client that has only half-closed it is still there.
    pub(crate) async fn gone(&self) {
        // An error: the runtime ends.
        let _ = self.0.stream.ready(Interest::ERROR).await;
    }

    /// Clears the readiness, so that the next event is a new one.
    pub(crate) fn clear(&self) {
        // Before the readiness is cleared: a concurrent reader then looks at the socket itself.
        self.0.cleared.store(true, Ordering::Release);
        let _ = self.0.stream.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    }

    /// Reads what the readiness announces.
    fn read_ready(&self, buffer: &mut ReadBuf<'_>) -> io::Result<()> {
        let initialized = buffer.initialized().len() - buffer.filled().len();
        let room = buffer.initialize_unfilled_to(buffer.remaining().min(initialized.max(MAX_READ)));
        let mut read = None;
        let tried = self.0.stream.try_io(Interest::READABLE, || {
            let (_, len) = recv(&self.0.stream, &mut *room, RecvFlags::DONTWAIT)?;
            read = Some(len);
            // Less than fits: nothing is left, and another call would only say so. Said in here, where tokio knows
            // whether anything arrived since, it hides no new event.
            if 0 < len && len < room.len() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match read {
            Some(len) => {
                buffer.advance(len);
                Ok(())
            }
            None => tried,
        }
    }

    /// Reads past the readiness.
    fn read_now(&self, buffer: &mut ReadBuf<'_>) -> io::Result<()> {
        let (_, len) = recv(&self.0.stream, buffer.initialize_unfilled(), RecvFlags::DONTWAIT)?;
        buffer.advance(len);
        Ok(())
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.0.cleared.swap(false, Ordering::AcqRel) {
            match self.read_now(buffer) {
                // Empty: from now on the readiness is right again.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => {
                    // There may be more that nothing signals.
                    self.0.cleared.store(true, Ordering::Release);
                    return Poll::Ready(read);
                }
            }
        }
        loop {
            ready!(self.0.stream.poll_read_ready(cx))?;
            match self.read_ready(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.stream.poll_write_ready(cx))?;
            match self.0.stream.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.stream.poll_write_ready(cx))?;
            match self.0.stream.try_write_vectored(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(shutdown(&self.0.stream, Shutdown::Write).map_err(Into::into))
    }
}
