//! The log queue to standard error: bounded, written out by one thread. Logging never waits for the reader.

use std::{
    io::{self, Write},
    mem,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, poll};

/// Bytes queued at most. Lines beyond that are dropped and counted.
const MAX_WAITING: usize = 4 << 20;

/// A buffer that a burst made larger than this is freed.
const MAX_KEPT: usize = 64 << 10;

/// Lines on their way to one writer.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    waiting: Vec<u8>,
    /// Lines that found no room since the last ones were written.
    left_out: u64,
    /// The thread is writing what it took.
    writing: bool,
}

// === impl Queue ===

impl Queue {
    pub(super) const fn new() -> Self {
        let state = State { waiting: Vec::new(), left_out: 0, writing: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Adds a line, or counts it as left out. Never waits for the writer.
    pub(super) fn push(&self, line: &[u8]) -> bool {
        let mut state = self.lock();
        if state.waiting.len() + line.len() > MAX_WAITING {
            state.left_out += 1;
            return false;
        }
        state.waiting.extend_from_slice(line);
        self.changed.notify_all();
        true
    }

    /// Returns when everything pushed so far is written, or after `within`.
    pub(super) fn flush(&self, within: Duration) {
        let pending = |state: &mut State| state.writing || !state.waiting.is_empty();
        drop(self.changed.wait_timeout_while(self.lock(), within, pending));
    }

    /// Writes out what is pushed, for ever. `left_out` reports how many lines found no room, once there is room again.
    pub(super) fn write_out(&self, out: &mut impl Write, left_out: impl Fn(u64)) -> ! {
        let mut buffer = Vec::new();
        loop {
            let mut state = self
                .changed
                .wait_while(self.lock(), |state| state.waiting.is_empty())
                .unwrap_or_else(PoisonError::into_inner);
            mem::swap(&mut state.waiting, &mut buffer);
            let missed = mem::take(&mut state.left_out);
            state.writing = true;
            drop(state);
            if missed > 0 {
                left_out(missed);
            }
            // A failed write cannot be reported: standard error has no reader.
            let _ = out.write_all(&buffer);
            buffer.clear();
            if buffer.capacity() > MAX_KEPT {
                buffer = Vec::new();
            }
            self.lock().writing = false;
            self.changed.notify_all();
        }
    }

    /// Code under this lock only moves bytes, so the state is whole even after a panic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Standard error, past the lock that the standard library holds while it writes: a line that is stuck there must not
/// keep others from it.
#[derive(Debug)]
pub(super) struct Stderr;

// === impl Stderr ===

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stderr = io::stderr();
        loop {
            match rustix::io::write(&stderr, bytes) {
                // Another process that has it, too, made it non-blocking.
                Err(rustix::io::Errno::AGAIN) => {
                    poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], None)?;
                }
                result => return Ok(result?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, mpsc},
        thread,
    };

    use super::*;

    /// A reader that takes nothing until it is told to.
    struct Slow {
        may: mpsc::Receiver<()>,
        written: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.may.recv().map_err(io::Error::other)?;
            self.written.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn who_logs_never_waits_for_who_reads_and_what_found_no_room_is_counted() {
        let queue = Arc::new(Queue::new());
        let ((may, waits), (written, read)) = (mpsc::channel(), mpsc::channel());
        let (report, reported) = mpsc::channel();
        let writer = queue.clone();
        thread::spawn(move || {
            let mut slow = Slow { may: waits, written };
            writer.write_out(&mut slow, move |lines| report.send(lines).unwrap());
        });
        let line = [b'x'; 1024];
        let lines = 3 * MAX_WAITING / line.len();
        let kept = (0..lines).filter(|_| queue.push(&line)).count();
        // What the thread took makes room for as much again, at most.
        assert!((MAX_WAITING / 1024..=2 * MAX_WAITING / 1024).contains(&kept), "{kept}");
        queue.flush(Duration::from_millis(1));

        let mut total = 0;
        while total < kept * line.len() {
            may.send(()).unwrap();
            total += read.recv().unwrap().len();
        }
        assert_eq!(total, kept * line.len());
        queue.flush(Duration::MAX);
        // The thread may have taken lines while others were left out, and then reports twice.
        assert_eq!(reported.try_iter().sum::<u64>(), (lines - kept) as u64);

        assert!(queue.push(b"after"));
        may.send(()).unwrap();
        assert_eq!(read.recv().unwrap(), b"after");
    }
}
