//! Answer bytes that HTTP/2 clients have not taken yet: bounded per connection and in total.
//!
//! One tenant must not use up the bound for the others: above it, the connections of the namespace with the most are
//! closed.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes};

use super::{ConnectionSlots, slots::lock, tracked::Stream};
use crate::state::NamespaceShare;

/// Unread bytes of one connection above which each of its streams gets only one chunk.
const MAX_CONNECTION_UNREAD: usize = 4 * 1024 * 1024;
/// A chunk takes at least this much memory: it is a part of what was read at once.
const MIN_CHUNK: usize = 8 * 1024;

/// The unread bytes of one connection.
#[derive(Debug)]
pub(crate) struct Unread {
    slots: Arc<ConnectionSlots>,
    bytes: AtomicUsize,
    /// The same by the namespace of the resource; `None`: the DLX's own answers.
    namespaces: Mutex<Vec<(Option<Arc<NamespaceShare>>, usize)>>,
    /// It was closed for its unread bytes.
    closed: AtomicBool,
}

/// The unread chunks of one stream.
#[derive(Debug, Default)]
pub(crate) struct UnreadChunks {
    count: AtomicUsize,
    /// The task that waits until there are none.
    waits: Mutex<Option<Waker>>,
}

/// A chunk of an answer, which counts as unread until it is dropped.
#[derive(Debug)]
pub(crate) struct UnreadChunk {
    bytes: Bytes,
    _counted: Option<Counted>,
}

#[derive(Debug)]
struct Counted {
    connection: Arc<Unread>,
    stream: Arc<Stream>,
    share: Option<Arc<NamespaceShare>>,
    size: usize,
}

// === impl Unread ===

impl Unread {
    /// For a new connection.
    pub(crate) fn new(slots: Arc<ConnectionSlots>) -> Arc<Self> {
        Arc::new(Self {
            slots,
            bytes: AtomicUsize::new(0),
            namespaces: Mutex::default(),
            closed: AtomicBool::new(false),
        })
    }

    /// Bytes that are unread.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The same by the namespace of the resource; `None`: the DLX's own answers.
    pub(crate) fn namespaces(&self) -> Vec<(Option<Arc<NamespaceShare>>, usize)> {
        lock(&self.namespaces).clone()
    }

    /// Marks it as closing, which frees its unread bytes; whether that is new.
    pub(crate) fn close(&self) -> bool {
        !self.closed.swap(true, Ordering::Relaxed)
    }

    /// Whether it is closing.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Whether a stream may get another chunk: with too much unread on its connection it waits until its own was taken.
    pub(crate) fn poll_room(&self, stream: &Stream, cx: &mut Context<'_>) -> Poll<()> {
        let full =
            || self.bytes() >= MAX_CONNECTION_UNREAD && stream.chunks.count.load(Ordering::Acquire) > 0;
        if !full() {
            return Poll::Ready(());
        }
        *lock(&stream.chunks.waits) = Some(cx.waker().clone());
        // It may have been taken meanwhile.
        if full() { Poll::Pending } else { Poll::Ready(()) }
    }

    /// A chunk that counts.
    pub(crate) fn count(
        self: &Arc<Self>,
        stream: &Arc<Stream>,
        share: Option<&Arc<NamespaceShare>>,
        bytes: Bytes,
    ) -> UnreadChunk {
        let size = bytes.len().max(MIN_CHUNK);
        self.bytes.fetch_add(size, Ordering::Relaxed);
        stream.chunks.count.fetch_add(1, Ordering::AcqRel);
        {
            let mut namespaces = lock(&self.namespaces);
            match namespaces.iter_mut().find(|(of, _)| of.as_ref().map(Arc::as_ptr) == share.map(Arc::as_ptr))
            {
                Some((_, bytes)) => *bytes += size,
                None => namespaces.push((share.cloned(), size)),
            }
        }
        self.slots.add_unread(size);
        let counted =
            Counted { connection: self.clone(), stream: stream.clone(), share: share.cloned(), size };
        UnreadChunk { bytes, _counted: Some(counted) }
    }

    /// A chunk does not count any more.
    fn forget(&self, share: Option<&Arc<NamespaceShare>>, size: usize) {
        self.bytes.fetch_sub(size, Ordering::Relaxed);
        let mut namespaces = lock(&self.namespaces);
        if let Some(at) =
            namespaces.iter().position(|(of, _)| of.as_ref().map(Arc::as_ptr) == share.map(Arc::as_ptr))
        {
            namespaces[at].1 -= size;
            if namespaces[at].1 == 0 {
                namespaces.swap_remove(at);
            }
        }
    }
}

// === impl UnreadChunk ===

impl From<Bytes> for UnreadChunk {
    /// A chunk that does not count.
    fn from(bytes: Bytes) -> Self {
        Self { bytes, _counted: None }
    }
}

impl Buf for UnreadChunk {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [io::IoSlice<'a>]) -> usize {
        self.bytes.chunks_vectored(slices)
    }

    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        self.bytes.copy_to_bytes(len)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.connection.forget(self.share.as_ref(), self.size);
        self.connection.slots.remove_unread(self.size);
        if self.stream.chunks.count.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(waits) = lock(&self.stream.chunks.waits).take()
        {
            waits.wake();
        }
    }
}

#[cfg(test)]
mod tests;
