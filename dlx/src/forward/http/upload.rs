//! Requests' bodies on their way through. One may go on when its answer has ended: until its own end its request is in flight
//! and its connection busy, but no longer than its client or its resource stalls.

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

use super::{ConnectionContext, replay::Replay};
use crate::{
    client::{BusyGuard, ConnectionProgress},
    state::InFlight,
};

/// A request's body on its way to the resource.
#[derive(Debug)]
pub(crate) enum RequestBody {
    /// None.
    Empty,
    /// From the client.
    Streaming(FromClient),
    /// From the client, and kept until it is known that the resource works on it.
    Kept(Replay<FromClient>),
}

/// A body that a client sends.
#[derive(Debug)]
pub(crate) struct FromClient {
    incoming: Incoming,
    /// Its connection, which waits for it until its end: over HTTP/1 alone, where nothing else comes on it.
    awaited: Option<Arc<ConnectionProgress>>,
    state: Shared,
}

/// A request whose body has not come yet as a whole. Dropped before the answer's end, its request is over.
#[derive(Debug)]
pub(crate) struct Unanswered(Shared);

#[derive(Clone, Debug)]
struct Shared(Arc<Mutex<State>>);

#[derive(Debug)]
enum State {
    /// The answer has not ended. The connection has something to do.
    Answering(BusyGuard),
    /// The answer has ended: when a piece of the body passed last, and the task for which the request still counts.
    Answered { passed: Instant, counts: AbortHandle },
    /// The request counts no more.
    Over,
}

// === impl RequestBody ===

impl RequestBody {
    /// The body of a client's request.
    pub(crate) fn from_client(incoming: Incoming, context: &ConnectionContext) -> Self {
        if incoming.is_end_stream() {
            return RequestBody::Empty;
        }
        RequestBody::Streaming(FromClient {
            incoming,
            awaited: context.socket.is_some().then(|| context.progress.clone()),
            state: Shared(Arc::new(Mutex::new(State::Answering(context.progress.busy())))),
        })
    }

    /// Its request, if that may outlast the answer; to be asked for once.
    pub(crate) fn unanswered(&self) -> Option<Unanswered> {
        match self {
            RequestBody::Streaming(body) => Some(Unanswered(body.state.clone())),
            RequestBody::Empty | RequestBody::Kept(_) => None,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
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
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.incoming).poll_frame(cx);
        // An error may be that it waited for too long, which is asked for afterwards.
        if let Some(progress) = &this.awaited
            && !matches!(frame, Poll::Ready(Some(Err(_))))
        {
            progress.awaits_body(frame.is_pending());
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
    /// The answer has ended: its request is in flight until its body has, too.
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

/// Has a request count until nothing more of its body passed for too long. Not told by the body: nobody asks for that while
/// the resource takes nothing.
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
    /// A piece of the body has passed.
    fn passed(&self) {
        if let State::Answered { passed, .. } = &mut *self.lock() {
            *passed = Instant::now();
        }
    }

    /// When a piece passed last; `None` when the body has ended.
    fn last_passed(&self) -> Option<Instant> {
        match *self.lock() {
            State::Answered { passed, .. } => Some(passed),
            State::Answering(_) | State::Over => None,
        }
    }

    /// The body has ended.
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
