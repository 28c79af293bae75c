//! One direction of a spliced connection.

use std::{
    io,
    task::{Context, Poll, ready},
};

use rustix::net::{Shutdown, shutdown};
use tokio::net::TcpStream;

/// How many bytes may be under way per direction.
const PIPE_BUFFER: usize = 16 * 1024;

/// One direction: from one socket to the other. It may pause between two polls without losing anything.
#[derive(Debug, Default)]
pub(crate) struct Pipe {
    buffer: Vec<u8>,
    sent: usize,
    /// The sender has half-closed.
    ended: bool,
    /// The receiver was half-closed, too.
    done: bool,
}

// === impl Pipe ===

impl Pipe {
    /// Whether this direction is over.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// Whether bytes were read that are not yet written.
    pub(crate) fn is_full(&self) -> bool {
        self.sent < self.buffer.len()
    }

    /// Half-closes the receiver.
    pub(crate) fn end(&mut self, to: &TcpStream) {
        // The receiver may be gone.
        let _ = shutdown(to, Shutdown::Write);
        self.done = true;
    }

    /// Copies what can be copied; ready when the direction is over. Sets `moved` if a byte moved.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
        moved: &mut bool,
    ) -> Poll<io::Result<()>> {
        while !self.done {
            if self.is_full() {
                ready!(to.poll_write_ready(cx))?;
                match to.try_write(&self.buffer[self.sent..]) {
                    Ok(len) => {
                        self.sent += len;
                        *moved = true;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Poll::Ready(Err(error)),
                }
            } else if self.ended {
                self.end(to);
            } else {
                if from.poll_read_ready(cx)?.is_pending() {
                    // Nothing is under way: an idle connection keeps no buffer.
                    self.buffer = Vec::new();
                    self.sent = 0;
                    return Poll::Pending;
                }
                self.buffer.clear();
                self.sent = 0;
                self.buffer.reserve(PIPE_BUFFER);
                match from.try_read_buf(&mut self.buffer) {
                    Ok(0) => self.ended = true,
                    Ok(_) => *moved = true,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}
