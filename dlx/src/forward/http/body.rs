//! Answers' bodies on their way through.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Response;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::{pool::Lease, upload::Unanswered};
use crate::state::{InFlight, Share};

/// A response's body on its way to the client.
#[derive(Debug)]
pub enum Relay {
    /// From the resource.
    Through(Through),
    /// Of the DLX's own; `None` once sent.
    Own(Option<Bytes>),
    /// There is none, and the head says how long it would be (304). To hyper it is one of unknown length: for none at all it
    /// would take the length out of the head.
    Withheld,
}

/// A body that the resource sends.
#[derive(Debug)]
pub struct Through {
    incoming: Incoming,
    /// The connection it comes on, to be used again when it came to its end.
    lease: Option<Lease>,
    /// In flight until it is done or dropped,
    in_flight: Option<InFlight>,
    /// and when it is done, on while the request's body still comes.
    unanswered: Option<Unanswered>,
}

// === impl Relay ===

impl Relay {
    /// No body.
    pub fn empty() -> Self {
        Relay::Own(None)
    }

    /// The namespace that it comes from, as long as more comes.
    pub fn share(&self) -> Option<&Arc<Share>> {
        match self {
            Relay::Through(through) => Some(&through.in_flight.as_ref()?.entry().share),
            Relay::Own(_) | Relay::Withheld => None,
        }
    }

    /// The resource's body.
    pub fn through(
        response: Response<Incoming>,
        lease: Option<Lease>,
        in_flight: InFlight,
        unanswered: Option<Unanswered>,
    ) -> Response<Self> {
        response.map(|incoming| {
            let mut through = Through { incoming, lease, in_flight: Some(in_flight), unanswered };
            if through.incoming.is_end_stream() {
                through.ended();
            }
            Relay::Through(through)
        })
    }
}

impl From<Bytes> for Relay {
    fn from(bytes: Bytes) -> Self {
        Relay::Own(Some(bytes))
    }
}

impl Body for Relay {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Relay::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Relay::Withheld => Poll::Ready(None),
            Relay::Through(through) => {
                let frame = std::task::ready!(Pin::new(&mut through.incoming).poll_frame(cx));
                if frame.is_none()
                    || frame.as_ref().is_some_and(Result::is_ok) && through.incoming.is_end_stream()
                {
                    through.ended();
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Relay::Own(bytes) => bytes.is_none(),
            Relay::Withheld => false,
            Relay::Through(through) => through.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Relay::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Relay::Withheld => SizeHint::default(),
            Relay::Through(through) => through.incoming.size_hint(),
        }
    }
}

// === impl Through ===

impl Through {
    /// All of it came.
    fn ended(&mut self) {
        if let (Some(lease), Some(in_flight)) = (self.lease.take(), &self.in_flight) {
            lease.give_back(in_flight.entry());
        }
        if let (Some(in_flight), Some(unanswered)) = (self.in_flight.take(), self.unanswered.take()) {
            unanswered.answered(in_flight);
        }
    }
}
