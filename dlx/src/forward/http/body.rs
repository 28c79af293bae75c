//! Answers' bodies on their way through.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Response;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::{pool::PooledConnection, upload::Unanswered};
use crate::state::{InFlight, NamespaceShare};

/// A response's body on its way to the client.
#[derive(Debug)]
pub(crate) enum ResponseBody {
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
pub(crate) struct Through {
    incoming: Incoming,
    /// The connection it comes on, to be used again when it came to its end.
    connection: Option<PooledConnection>,
    /// In flight until it is done or dropped,
    in_flight: Option<InFlight>,
    /// and when it is done, on while the request's body still comes.
    unanswered: Option<Unanswered>,
}

// === impl ResponseBody ===

impl ResponseBody {
    /// No body.
    pub(crate) fn empty() -> Self {
        ResponseBody::Own(None)
    }

    /// The namespace that it comes from, as long as more comes.
    pub(crate) fn share(&self) -> Option<&Arc<NamespaceShare>> {
        match self {
            ResponseBody::Through(through) => Some(&through.in_flight.as_ref()?.resource().share),
            ResponseBody::Own(_) | ResponseBody::Withheld => None,
        }
    }

    /// The resource's body.
    pub(crate) fn through(
        response: Response<Incoming>,
        connection: Option<PooledConnection>,
        in_flight: InFlight,
        unanswered: Option<Unanswered>,
    ) -> Response<Self> {
        response.map(|incoming| {
            let mut through = Through { incoming, connection, in_flight: Some(in_flight), unanswered };
            if through.incoming.is_end_stream() {
                through.ended();
            }
            ResponseBody::Through(through)
        })
    }
}

impl From<Bytes> for ResponseBody {
    fn from(bytes: Bytes) -> Self {
        ResponseBody::Own(Some(bytes))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            ResponseBody::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            ResponseBody::Withheld => Poll::Ready(None),
            ResponseBody::Through(through) => {
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
            ResponseBody::Own(bytes) => bytes.is_none(),
            ResponseBody::Withheld => false,
            ResponseBody::Through(through) => through.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Own(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            ResponseBody::Withheld => SizeHint::default(),
            ResponseBody::Through(through) => through.incoming.size_hint(),
        }
    }
}

// === impl Through ===

impl Through {
    /// All of it came.
    fn ended(&mut self) {
        if let (Some(connection), Some(in_flight)) = (self.connection.take(), &self.in_flight) {
            connection.return_to_pool(in_flight.resource());
        }
        if let (Some(in_flight), Some(unanswered)) = (self.in_flight.take(), self.unanswered.take()) {
            unanswered.answered(in_flight);
        }
    }
}
