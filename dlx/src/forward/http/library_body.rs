//! Bodies that the HTTP library reads.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

/// A body that the HTTP library reads. The library ends a body of HTTP/2 whose stream was reset with `NO_ERROR` as if it were
/// whole; here that is an error.
#[derive(Debug)]
pub(crate) struct LibraryBody {
    incoming: Incoming,
    http2: bool,
}

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LibraryBodyError {
    #[error(transparent)]
    Read(#[from] hyper::Error),
    #[error("the stream was reset before the end of its body")]
    Reset,
}

// === impl LibraryBody ===

impl LibraryBody {
    /// Wraps a body. `http2`: of a message of HTTP/2.
    pub(crate) fn new(incoming: Incoming, http2: bool) -> Self {
        Self { incoming, http2 }
    }
}

impl Body for LibraryBody {
    type Data = Bytes;
    type Error = LibraryBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, LibraryBodyError>>> {
        let this = self.get_mut();
        Poll::Ready(match ready!(Pin::new(&mut this.incoming).poll_frame(cx)) {
            Some(frame) => Some(frame.map_err(LibraryBodyError::Read)),
            None if this.http2 && !this.incoming.is_end_stream() => Some(Err(LibraryBodyError::Reset)),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
