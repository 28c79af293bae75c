//! One direction of a spliced connection.

use std::{
    cell::RefCell,
    io,
    task::{Context, Poll, ready},
};

use rustix::net::{RecvFlags, Shutdown, recv, shutdown};
use tokio::{io::Interest, net::TcpStream};

/// How many bytes may be under way per direction.
const PIPE_BUFFER: usize = 64 * 1024;

thread_local! {
    /// What is read goes through this memory. Only what cannot be written at once takes more.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// One direction: from one socket to the other. It may pause between two polls without losing anything.
#[derive(Debug, Default)]
pub(crate) struct Pipe {
    /// Read and not written yet, from `sent` on.
    left: Vec<u8>,
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
        self.sent < self.left.len()
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
                match to.try_write(&self.left[self.sent..]) {
                    Ok(len) => {
                        self.sent += len;
                        *moved = true;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Poll::Ready(Err(error)),
                }
                if !self.is_full() {
                    (self.left, self.sent) = (Vec::new(), 0);
                }
            } else if self.ended {
                self.end(to);
            } else {
                ready!(from.poll_read_ready(cx))?;
                match BUFFER.with_borrow_mut(|buffer| self.copy(from, to, buffer)) {
                    Ok(0) => self.ended = true,
                    Ok(_) => *moved = true,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once, and writes as much of that as can be written at once. How much was read.
    fn copy(&mut self, from: &TcpStream, to: &TcpStream, buffer: &mut Vec<u8>) -> io::Result<usize> {
        buffer.resize(PIPE_BUFFER, 0);
        let len = read(from, buffer)?;
        if len > 0 {
            let written = match to.try_write(&buffer[..len]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                written => written?,
            };
            self.left.extend_from_slice(&buffer[written..len]);
        }
        Ok(len)
    }
}

/// Reads what the readiness announces.
fn read(from: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut read = None;
    let tried = from.try_io(Interest::READABLE, || {
        let (_, len) = recv(from, &mut *buffer, RecvFlags::DONTWAIT)?;
        read = Some(len);
        // Less than fits: nothing is left, and another call would only say so. Said in here, where tokio knows whether
        // anything arrived since, it hides no new event.
        if 0 < len && len < buffer.len() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    match read {
        Some(len) => Ok(len),
        None => tried.map(|()| 0),
    }
}
