//! A request body that can be sent again from its beginning, as long as little of it was sent.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// How much of the sent bytes is kept. More than most gRPC calls have.
const MAX_KEPT: usize = 16 * 1024;
/// The least size of a chunk in that sum: keeping a chunk costs as much, however small it is.
const MIN_CHUNK: usize = 256;

/// A body that keeps what it sends. The [`later`](Self::later) body takes over when it is begun.
#[derive(Debug)]
pub(crate) struct Replay<B> {
    state: Arc<Mutex<State<B>>>,
    turn: u32,
    /// How many of the kept chunks were read.
    position: usize,
}

#[derive(Debug)]
struct State<B> {
    rest: B,
    kept: Vec<Bytes>,
    bytes: usize,
    /// More was sent than was kept.
    lost: bool,
    /// Which of the bodies reads it.
    turn: u32,
}

// === impl Replay ===

impl<B> Replay<B> {
    /// Wraps a body of which nothing was sent.
    pub(crate) fn new(rest: B) -> Self {
        let state = State { rest, kept: Vec::new(), bytes: 0, lost: false, turn: 0 };
        Self { state: Arc::new(Mutex::new(state)), turn: 0, position: 0 }
    }

    /// The same body from its beginning.
    pub(crate) fn later(&self) -> Self {
        Self { state: self.state.clone(), turn: self.turn + 1, position: 0 }
    }

    /// Takes over, if all that was sent is kept.
    pub(crate) fn begin(&self) -> bool {
        let mut state = self.lock();
        if !state.lost {
            state.turn = self.turn;
        }
        !state.lost
    }

    fn lock(&self) -> MutexGuard<'_, State<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Replay<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let mut guard = this.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *guard;
        if state.turn != this.turn {
            // It is sent on another stream by now; this one was refused.
            return Poll::Ready(None);
        }
        if let Some(kept) = state.kept.get(this.position) {
            this.position += 1;
            return Poll::Ready(Some(Ok(Frame::data(kept.clone()))));
        }
        if Arc::strong_count(&this.state) == 1 && !state.lost {
            // It will not be sent again.
            state.lost = true;
            state.kept = Vec::new();
        }
        let frame = std::task::ready!(Pin::new(&mut state.rest).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && !state.lost
        {
            match frame.data_ref() {
                Some(data) if state.bytes + data.len().max(MIN_CHUNK) <= MAX_KEPT => {
                    state.bytes += data.len().max(MIN_CHUNK);
                    state.kept.push(data.clone());
                    this.position += 1;
                }
                _ => {
                    state.lost = true;
                    state.kept = Vec::new();
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let state = self.lock();
        state.rest.is_end_stream() && self.position >= state.kept.len()
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.lock();
        let again: u64 = state.kept.iter().skip(self.position).map(|kept| kept.len() as u64).sum();
        let rest = state.rest.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + again);
        }
        hint.set_lower(rest.lower() + again);
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, convert::Infallible};

    use http_body_util::BodyExt;

    use super::*;

    /// A body of these chunks.
    #[derive(Debug)]
    struct Pieces(VecDeque<Bytes>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.get_mut().0.pop_front().map(|piece| Ok(Frame::data(piece))))
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.0.iter().map(|piece| piece.len() as u64).sum())
        }
    }

    fn body(pieces: &[&'static [u8]]) -> Replay<Pieces> {
        Replay::new(Pieces(pieces.iter().map(|piece| Bytes::from_static(piece)).collect()))
    }

    #[tokio::test]
    async fn a_repeated_body_begins_with_the_sent_chunks() {
        let mut first = body(&[b"ab", b"cd", b"ef"]);
        let mut later = first.later();
        for _ in 0..2 {
            first.frame().await.unwrap().unwrap();
        }
        assert!(later.begin());
        // The first body ends for its reader.
        assert!(first.frame().await.is_none());
        assert_eq!(later.size_hint().exact(), Some(6));
        assert_eq!(later.frame().await.unwrap().unwrap().into_data().unwrap(), "ab");
        assert_eq!(later.size_hint().exact(), Some(4));
        assert_eq!(later.collect().await.unwrap().to_bytes(), "cdef");
    }

    #[tokio::test]
    async fn a_body_too_large_to_keep_is_not_sent_again() {
        static LARGE: [u8; MAX_KEPT] = [0; MAX_KEPT];
        for (pieces, kept) in [
            (vec![&LARGE[..]], true),
            (vec![&LARGE[..], b"a"], false),
            // Even a small chunk counts.
            (vec![b"a"; MAX_KEPT / MIN_CHUNK], true),
            (vec![b"a"; MAX_KEPT / MIN_CHUNK + 1], false),
        ] {
            let mut first = body(&pieces);
            let later = first.later();
            while first.frame().await.is_some() {}
            assert_eq!(later.begin(), kept, "{} pieces", pieces.len());
        }
    }
}
