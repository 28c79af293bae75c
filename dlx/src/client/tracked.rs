//! Answers on their way to a client: the connection is busy until they are done, and an HTTP/2 stream whose client takes
//! nothing of its answer ends.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    progress::BusyGuard,
    unread::{UnreadChunk, UnreadChunks},
};
use crate::state::NamespaceShare;

tokio::task_local! {
    /// The stream whose answer the current task sends.
    static STREAM: Arc<Stream>;
}

/// An HTTP/2 stream.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    /// Since when a chunk of the answer was handed over and no other was polled for: hyper does not poll while the client
    /// takes nothing, but does while the resource sends nothing.
    handed: Mutex<Option<Instant>>,
    /// The chunks that its client has not taken.
    pub(super) chunks: UnreadChunks,
}

/// An answer's body.
#[derive(Debug)]
pub(crate) struct Tracked<B> {
    body: B,
    stream: Option<Arc<Stream>>,
    /// The namespace of its resource.
    share: Option<Arc<NamespaceShare>>,
    busy: BusyGuard,
}

/// Runs the streams of a connection, each in a task.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streams {
    /// How long a client may take nothing of an answer.
    pub(crate) stall: Duration,
}

/// A stream's task.
struct Task<F> {
    /// Dropped, with everything that belongs to it, when its client has stalled: that resets the stream.
    future: Pin<Box<F>>,
    stream: Arc<Stream>,
    stall: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

// === impl Stream ===

impl Stream {
    /// The stream of the current task, if it has one.
    pub(crate) fn current() -> Option<Arc<Self>> {
        STREAM.try_with(Arc::clone).ok()
    }

    fn set(&self, handed: Option<Instant>) {
        *self.handed.lock().unwrap_or_else(PoisonError::into_inner) = handed;
    }

    fn handed(&self) -> Option<Instant> {
        *self.handed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Tracked ===

impl<B> Tracked<B> {
    /// A body that marks its connection as busy until it is dropped.
    pub(crate) fn new(
        body: B,
        stream: Option<Arc<Stream>>,
        share: Option<Arc<NamespaceShare>>,
        busy: BusyGuard,
    ) -> Self {
        Self { body, stream, share, busy }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Tracked<B> {
    type Data = UnreadChunk;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<UnreadChunk>, B::Error>>> {
        let this = self.get_mut();
        let Some(stream) = &this.stream else {
            let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
            return Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(UnreadChunk::from))));
        };
        let unread = this.busy.progress().unread();
        ready!(unread.poll_room(stream, cx));
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        let data = matches!(&frame, Poll::Ready(Some(Ok(frame))) if frame.is_data());
        stream.set(data.then(Instant::now));
        let count = |bytes| unread.count(stream, this.share.as_ref(), bytes);
        frame.map(|frame| frame.map(|frame| frame.map(|frame| frame.map_data(count))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === impl Streams ===

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        let stream = Arc::<Stream>::default();
        tokio::spawn(Task { future: Box::pin(future), stream, stall: self.stall, timer: None });
    }
}

impl<F: Future<Output = ()>> Future for Task<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if STREAM.sync_scope(this.stream.clone(), || this.future.as_mut().poll(cx)).is_ready() {
            return Poll::Ready(());
        }
        loop {
            let Some(handed) = this.stream.handed() else { return Poll::Pending };
            let deadline = handed + this.stall;
            if deadline <= Instant::now() {
                tracing::debug!("reset a stream: its client read nothing of the response for too long");
                return Poll::Ready(());
            }
            let timer = match &mut this.timer {
                Some(timer) => {
                    if timer.is_elapsed() {
                        timer.as_mut().reset(deadline);
                    }
                    timer
                }
                None =>
                {
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "that a client took nothing for a while is the event"
                    )]
                    this.timer.insert(Box::pin(sleep_until(deadline)))
                }
            };
            ready!(timer.as_mut().poll(cx));
        }
    }
}
