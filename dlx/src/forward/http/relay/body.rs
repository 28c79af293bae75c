//! Finds the end of a body in the bytes of a connection.

use crate::identify::chunks::{Chunks, ChunksRead};

/// A body, and how much of it is still to come.
#[derive(Debug)]
pub(super) enum Body {
    /// This many bytes.
    Length(u64),
    /// Chunks.
    Chunked(Chunks),
    /// Everything to the end of the connection.
    ToTheEnd,
}

/// What some bytes are of a body.
#[derive(Debug)]
pub(super) struct Part {
    /// How many of them belong to it.
    pub(super) len: usize,
    /// Whether it ends with them.
    pub(super) ended: bool,
}

/// The bytes after the valid ones are no chunk.
#[derive(Debug)]
pub(super) struct BrokenChunk {
    /// How many are valid.
    pub(super) valid: usize,
}

// === impl Body ===

impl Body {
    /// A body of this length; `None` without any byte.
    pub(super) fn of_length(length: u64) -> Option<Self> {
        (length > 0).then_some(Body::Length(length))
    }

    /// In chunks.
    pub(super) fn chunked() -> Self {
        Body::Chunked(Chunks::new())
    }

    /// Goes on by these bytes.
    ///
    /// # Errors
    ///
    /// They are no chunk.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> Result<Part, BrokenChunk> {
        Ok(match self {
            Body::Length(left) => {
                let len = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= len as u64;
                Part { len, ended: *left == 0 }
            }
            Body::Chunked(chunks) => match chunks.follow(bytes) {
                ChunksRead::All => Part { len: bytes.len(), ended: false },
                ChunksRead::End(len) => Part { len, ended: true },
                ChunksRead::Broken(len) => return Err(BrokenChunk { valid: len.saturating_sub(1) }),
            },
            Body::ToTheEnd => Part { len: bytes.len(), ended: false },
        })
    }
}
