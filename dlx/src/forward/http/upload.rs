//! Bodies of requests on their way to the resource. A body may go on after its answer has ended: until its own end the
//! request is in flight and the connection busy, unless the client or the resource stalls.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::{
    task::AbortHandle,
    time::{Instant, sleep_until},
};

use super::{
    ConnectionContext,
    library_body::{LibraryBody, LibraryBodyError},
    replay::Replay,
};
use crate::{
    client::{BusyGuard, ConnectionProgress},
    state::InFlight,
};

/// A request's body on its way to the resource.
#[derive(Debug)]
pub(crate) enum RequestBody {
    /// No body.
    Empty,
    /// The client's body.
    Streaming(FromClient),
    /// The client's body, kept until the resource is known to process it.
    Kept(Replay<FromClient>),
}

/// A body from a client.
#[derive(Debug)]
pub(crate) struct FromClient {
    incoming: LibraryBody,
    /// The progress of its connection, over HTTP/1 only, where nothing else comes on it.
    awaited: Option<Arc<ConnectionProgress>>,
    state: Shared,
}

/// A request whose body is still arriving. Dropped before the answer's end, the request is over.
#[derive(Debug)]
pub(crate) struct Unanswered(Shared);

#[derive(Clone, Debug)]
struct Shared(Arc<Mutex<State>>);

#[derive(Debug)]
enum State {
    /// The answer has not ended; the connection is busy.
    Answering(BusyGuard),
    /// The answer has ended: when a chunk of the body last passed, and the task that keeps the request in flight.
    Answered { passed: Instant, counts: AbortHandle },
    /// The request is over.
    Over,
}

// === impl RequestBody ===

impl RequestBody {
    /// Wraps the body of a client's request.
    pub(crate) fn from_client(incoming: Incoming, context: &ConnectionContext) -> Self {
        if incoming.is_end_stream() {
            return RequestBody::Empty;
        }
        let http1 = context.socket.is_some();
        RequestBody::Streaming(FromClient {
            incoming: LibraryBody::new(incoming, !http1),
            awaited: http1.then(|| context.progress.clone()),
            state: Shared(Arc::new(Mutex::new(State::Answering(context.progress.busy())))),
        })
    }

    /// The request, if it may outlast the answer; to be taken once.
    pub(crate) fn unanswered(&self) -> Option<Unanswered> {
        match self {
            RequestBody::Streaming(body) => Some(Unanswered(body.state.clone())),
            RequestBody::Empty | RequestBody::Kept(_) => None,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = LibraryBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, LibraryBodyError>>> {
        match self.get_mut() {
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Streaming(body) => Pin::new(body).poll_frame(cx),
            RequestBody::Kept(replay) => Pin::new(replay).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Streaming(body) => body.is_end_stream(),
            RequestBody::Kept(replay) => replay.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Streaming(body) => body.size_hint(),
            RequestBody::Kept(replay) => replay.size_hint(),
        }
    }
}

// === impl FromClient ===

impl FromClient {
    fn end(&mut self) {
        self.awaited = None;
        self.state.end();
    }
}

impl Body for FromClient {
    type Data = Bytes;
    type Error = LibraryBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, LibraryBodyError>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.incoming).poll_frame(cx);
        // The error may be a timeout, which is checked afterwards.
        if let Some(progress) = &this.awaited
            && !matches!(frame, Poll::Ready(Some(Err(_))))
        {
            progress.set_awaiting_body(frame.is_pending());
        }
        match &frame {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(_))) if !this.incoming.is_end_stream() => this.state.passed(),
            Poll::Ready(_) => this.end(),
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for FromClient {
    fn drop(&mut self) {
        self.end();
    }
}

// === impl Unanswered ===

impl Unanswered {
    /// Notes that the answer has ended: the request stays in flight until its body has ended, too.
    pub(crate) fn answered(self, in_flight: InFlight) {
        let mut state = self.0.lock();
        match std::mem::replace(&mut *state, State::Over) {
            State::Answering(busy) => {
                let counts = tokio::spawn(count(self.0.clone(), busy, in_flight)).abort_handle();
                *state = State::Answered { passed: Instant::now(), counts };
            }
            other => *state = other,
        }
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if matches!(*state, State::Answering(_)) {
            *state = State::Over;
        }
    }
}

/// Keeps a request in flight until no chunk of its body has passed for too long. The body cannot do that: hyper does not
/// poll it while the resource takes nothing.
async fn count(state: Shared, busy: BusyGuard, in_flight: InFlight) {
    let stall = busy.progress().timeouts().stall;
    while let Some(end) = state.last_passed().map(|passed| passed + stall) {
        if end <= Instant::now() {
            tracing::debug!(
                resource = %in_flight.resource().key.id,
                "stopped counting a request: its body stalled after the response"
            );
            return;
        }
        #[expect(clippy::disallowed_methods, reason = "that nothing passed for a while is the event")]
        sleep_until(end).await;
    }
}

// === impl SharedState ===

impl Shared {
    /// Notes that a chunk of the body has passed.
    fn passed(&self) {
        if let State::Answered { passed, .. } = &mut *self.lock() {
            *passed = Instant::now();
        }
    }

    /// When a chunk last passed; `None` when the body has ended.
    fn last_passed(&self) -> Option<Instant> {
        match *self.lock() {
            State::Answered { passed, .. } => Some(passed),
            State::Answering(_) | State::Over => None,
        }
    }

    /// Notes that the body has ended.
    fn end(&self) {
        let mut state = self.lock();
        if let State::Answered { counts, .. } = &*state {
            counts.abort();
        }
        *state = State::Over;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
