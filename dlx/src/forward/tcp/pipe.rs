//! One direction of a spliced connection.

use std::{
    io,
    task::{Context, Poll, ready},
};

use rustix::net::{Shutdown, shutdown};
use tokio::net::TcpStream;

/// Bytes under way at most, per direction.
const PIPE_BUFFER: usize = 16 * 1024;

/// One direction: from one socket to the other. It can be left standing between two polls: nothing is lost.
#[derive(Debug, Default)]
pub(crate) struct Pipe {
    buffer: Vec<u8>,
    sent: usize,
    /// The sender has said that nothing more comes.
    ended: bool,
    /// And the receiver was told.
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

    /// Tells the receiver that nothing more comes.
    pub(crate) fn end(&mut self, to: &TcpStream) {
        // It may have gone already.
        let _ = shutdown(to, Shutdown::Write);
        self.done = true;
    }

    /// Moves what can be moved; ready when the direction is over. Says in `moved` whether a byte moved.
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
                    // Nothing on its way: an idle connection keeps no buffer.
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
