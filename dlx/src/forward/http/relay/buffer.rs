//! Buffers of a thread: taken while bytes are in hand, and returned when they were passed on. A connection that is idle or
//! whose request is held has none.

use std::cell::RefCell;

/// The size of a buffer: what a body is relayed in, and the longest head of a response that needs no other memory.
const SIZE: usize = 64 * 1024;
/// Room in front, so that a rewritten head can be put right before what followed the original.
const FRONT: usize = 4 * 1024;
/// Room at the end for the end of a chunk.
const BACK: usize = 8;
/// How many buffers a thread keeps.
const MAX_FREE: usize = 32;

thread_local! {
    static FREE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Memory of the thread to write a head in; empty at first.
#[derive(Debug)]
pub(super) struct Scratch(pub(super) Vec<u8>);

/// A buffer of the thread, with the bytes in hand.
#[derive(Debug)]
pub(super) struct Buffer {
    memory: Box<[u8]>,
    from: usize,
    to: usize,
}

// === impl Scratch ===

impl Scratch {
    /// Takes it.
    pub(super) fn take() -> Self {
        let mut memory = SCRATCH.take();
        memory.clear();
        Self(memory)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // An error: the thread ends.
        let _ = SCRATCH.try_with(|scratch| scratch.replace(std::mem::take(&mut self.0)));
    }
}

// === impl Buffer ===

impl Buffer {
    /// An empty buffer.
    pub(super) fn take() -> Self {
        let memory = FREE.with_borrow_mut(Vec::pop);
        Self { memory: memory.unwrap_or_else(|| vec![0; FRONT + SIZE + BACK].into()), from: FRONT, to: FRONT }
    }

    /// A buffer with these bytes; `None` if they do not fit.
    pub(super) fn with(bytes: &[u8]) -> Option<Self> {
        let mut buffer = Self::take();
        if bytes.len() > SIZE {
            // A head that grew when it was rewritten.
            (buffer.from, buffer.to) = (FRONT / 2, FRONT / 2);
        }
        buffer.room().get_mut(..bytes.len())?.copy_from_slice(bytes);
        buffer.to += bytes.len();
        Some(buffer)
    }

    /// The bytes in hand.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.memory[self.from..self.to]
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.to - self.from
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.from == self.to
    }

    /// The room after them.
    pub(super) fn room(&mut self) -> &mut [u8] {
        let end = self.memory.len() - BACK;
        &mut self.memory[self.to..end]
    }

    /// Adds bytes that were written to the room.
    pub(super) fn filled(&mut self, len: usize) {
        self.to += len;
    }

    /// Doubles the room.
    pub(super) fn grow(&mut self) {
        let mut memory = std::mem::take(&mut self.memory).into_vec();
        memory.resize(2 * memory.len(), 0);
        self.memory = memory.into();
    }

    /// Removes bytes from the front.
    pub(super) fn advance(&mut self, len: usize) {
        self.from += len;
    }

    /// Removes all bytes after the first `len`.
    pub(super) fn truncate(&mut self, len: usize) {
        self.to = self.to.min(self.from + len);
    }

    /// Puts bytes before those in hand; whether there was room.
    pub(super) fn put_front(&mut self, bytes: &[u8]) -> bool {
        let Some(from) = self.from.checked_sub(bytes.len()) else { return false };
        self.memory[from..self.from].copy_from_slice(bytes);
        self.from = from;
        true
    }

    /// Puts up to 8 bytes after those in hand, in the room that is kept for them.
    pub(super) fn put_back(&mut self, bytes: &[u8]) {
        self.memory[self.to..][..bytes.len()].copy_from_slice(bytes);
        self.to += bytes.len();
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.memory.len() != FRONT + SIZE + BACK {
            return;
        }
        let memory = std::mem::take(&mut self.memory);
        // An error: the thread ends.
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < MAX_FREE {
                free.push(memory);
            }
        });
    }
}
