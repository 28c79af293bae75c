//! Requests' bodies on their way through. One may go on when its answer has ended: until its own end its request is in flight
//! and its connection busy.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{Caller, replay::Replay};
use crate::{resource::InFlight, serve::Busy};

/// A request's body on its way to the resource.
#[derive(Debug)]
pub enum Upload {
    /// None.
    Empty,
    /// From the client.
    Streaming(FromClient),
    /// From the client, and kept until it is known that the resource works on it.
    Kept(Replay<FromClient>),
}

/// A body that a client sends.
#[derive(Debug)]
pub struct FromClient {
    incoming: Incoming,
    /// Its connection waits for it: over HTTP/1 alone, where nothing else comes on it.
    awaited: bool,
    /// Its connection has something to do, until the end.
    busy: Option<Busy>,
    rest: Arc<Rest>,
    /// Ends when its client has sent nothing for too long, after its answer.
    timer: Option<Pin<Box<Sleep>>>,
}

/// A request whose answer may end before its body does.
#[derive(Debug)]
pub struct Rest(Mutex<State>);

#[derive(Debug)]
enum State {
    /// The answer has not ended; who is to be told.
    Answering(Option<Waker>),
    /// The answer has ended.
    Answered { _in_flight: InFlight },
    /// The body has.
    Over,
}

// === impl Upload ===

impl Upload {
    /// The body of a client's request.
    pub fn from_client(incoming: Incoming, caller: &Caller) -> Self {
        if incoming.is_end_stream() {
            return Upload::Empty;
        }
        Upload::Streaming(FromClient {
            incoming,
            awaited: caller.socket.is_some(),
            busy: Some(caller.progress.busy()),
            rest: Arc::new(Rest(Mutex::new(State::Answering(None)))),
            timer: None,
        })
    }

    /// What of its request outlasts the answer.
    pub fn rest(&self) -> Option<Arc<Rest>> {
        match self {
            Upload::Streaming(body) => Some(body.rest.clone()),
            Upload::Empty | Upload::Kept(_) => None,
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Upload::Empty => Poll::Ready(None),
            Upload::Streaming(body) => Pin::new(body).poll_frame(cx),
            Upload::Kept(replay) => Pin::new(replay).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Upload::Empty => true,
            Upload::Streaming(body) => body.is_end_stream(),
            Upload::Kept(replay) => replay.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Upload::Empty => SizeHint::with_exact(0),
            Upload::Streaming(body) => body.size_hint(),
            Upload::Kept(replay) => replay.size_hint(),
        }
    }
}

// === impl FromClient ===

impl FromClient {
    /// Nothing comes now. After its answer that lasts only so long.
    fn wait(&mut self, cx: &mut Context<'_>) {
        let Some(busy) = &self.busy else { return };
        if !self.rest.is_answered(cx) {
            return;
        }
        let stall = busy.progress().timeouts().stall;
        #[expect(clippy::disallowed_methods, reason = "that a client sends nothing for a while is the event")]
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + stall)));
        if timer.as_mut().poll(cx).is_ready() {
            tracing::debug!(
                "a client sent nothing more of a body for too long after its answer: it counts no more"
            );
            self.end();
        }
    }

    fn end(&mut self) {
        (self.busy, self.timer) = (None, None);
        self.rest.end();
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
        if let Some(busy) = &this.busy
            && this.awaited
            && !matches!(frame, Poll::Ready(Some(Err(_))))
        {
            busy.progress().awaits_body(frame.is_pending());
        }
        match &frame {
            Poll::Pending => this.wait(cx),
            Poll::Ready(Some(Ok(_))) if !this.incoming.is_end_stream() => this.timer = None,
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

// === impl Rest ===

impl Rest {
    /// The answer has ended: its request is in flight until its body has, too.
    pub fn answered(&self, in_flight: InFlight) {
        let mut state = self.lock();
        if let State::Answering(waits) = &mut *state {
            let waits = waits.take();
            *state = State::Answered { _in_flight: in_flight };
            drop(state);
            waits.into_iter().for_each(Waker::wake);
        }
    }

    /// Whether the answer has ended; until then the task is to be woken.
    fn is_answered(&self, cx: &Context<'_>) -> bool {
        match &mut *self.lock() {
            State::Answering(waits) => {
                *waits = Some(cx.waker().clone());
                false
            }
            State::Answered { .. } => true,
            State::Over => false,
        }
    }

    /// The body has ended.
    fn end(&self) {
        *self.lock() = State::Over;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
