//! A client's HTTP/1 connection as the HTTP library reads it: whole heads that were checked, and what follows them.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::framing::{Framing, Stop};
use crate::{
    client::{Socket, Timed},
    identify::head,
};

/// Read in place of a refused head: the library then calls for an answer, and [`Socket::refusal`] has it. No accepted
/// head looks like this: it has no Host.
const IN_PLACE: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

/// The connection.
#[derive(Debug)]
pub(crate) struct Requests {
    socket: Socket,
    timed: Timed,
    framing: Framing,
    /// Read and not passed on yet. Empty, and without memory, unless a head came in parts.
    ahead: Vec<u8>,
    /// How much of it may be passed on.
    judged: usize,
    /// Nothing more is passed on.
    over: bool,
    /// The body is broken here: reading fails.
    broken: bool,
}

// === impl Requests ===

impl Requests {
    /// For a connection of which `read` was read already: the beginning of a head, or more.
    pub(crate) fn new(socket: Socket, timed: Timed, read: Vec<u8>) -> Self {
        let mut requests = Self {
            socket,
            timed,
            framing: Framing::new(),
            ahead: read,
            judged: 0,
            over: false,
            broken: false,
        };
        requests.judge();
        requests
    }

    /// Passes on as many bytes as may be.
    fn deliver(&mut self, buffer: &mut ReadBuf<'_>) {
        let here = self.judged.min(buffer.remaining());
        buffer.put_slice(&self.ahead[..here]);
        self.judged -= here;
        self.ahead.drain(..here);
        if self.ahead.is_empty() {
            self.ahead = Vec::new();
        }
    }

    /// Checks what was read and not passed on.
    fn judge(&mut self) {
        let (passed, stop) = self.framing.follow(&self.ahead);
        self.judged = passed;
        self.stopped(stop);
    }

    fn stopped(&mut self, stop: Stop) {
        match stop {
            Stop::End | Stop::HalfHead | Stop::Undecided => {}
            Stop::Refused(refusal) => {
                self.socket.refuse(refusal);
                self.ahead.truncate(self.judged);
                self.ahead.extend_from_slice(IN_PLACE);
                self.judged = self.ahead.len();
                self.over = true;
            }
            Stop::Broken => {
                self.ahead.truncate(self.judged);
                self.over = true;
                self.broken = true;
            }
        }
    }

    /// Reads more. `Ready(false)`: the connection has ended.
    fn poll_more(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<bool>> {
        if std::mem::take(&mut self.broken) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "invalid chunk")));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.timed).poll_read(cx, buffer))?;
        let read = &buffer.filled()[before..];
        let more = !read.is_empty();
        if self.over {
            // Discarded: unread bytes in the socket would turn the close into a reset that takes the answer away.
            buffer.set_filled(before);
            return Poll::Ready(Ok(more));
        }
        if self.ahead.is_empty() {
            // Usually all of it may be passed on, and is in place already.
            let (passed, stop) = self.framing.follow(read);
            self.ahead.extend_from_slice(&read[passed..]);
            buffer.set_filled(before + passed);
            self.judged = 0;
            self.stopped(stop);
        } else {
            let ended = head::may_end(&self.ahead, read);
            self.ahead.extend_from_slice(read);
            buffer.set_filled(before);
            if !self.framing.is_undecided() && (ended || self.ahead.len() >= head::MAX_HEAD_BYTES) {
                self.judge();
            }
        }
        Poll::Ready(Ok(more))
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        if self.over || self.framing.is_in_body() {
            self.socket.note_more();
        }
    }
}

impl AsyncRead for Requests {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if self.framing.is_undecided()
            && let Some(switched) = self.socket.take_decision(cx)
        {
            self.framing.decide(switched);
            self.judge();
        }
        loop {
            self.deliver(buffer);
            // The library reads on while it waits for the answer, to notice that its client leaves: bytes that it may
            // not have yet are kept for it, up to a limit.
            let full = self.framing.is_undecided() && self.ahead.len() >= head::MAX_HEAD_BYTES;
            if buffer.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
            if full {
                return Poll::Pending;
            }
            if !ready!(self.poll_more(cx, buffer))? || buffer.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Requests {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.timed).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.timed).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.timed.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.timed).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.timed).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
