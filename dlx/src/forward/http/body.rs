//! Bodies of responses on their way to the client.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Response;
use hyper::body::{Body, Frame, SizeHint};

use super::{dial::UpstreamError, http1::AnswerBody, library_body::LibraryBody, upload::Unanswered};
use crate::state::{InFlight, NamespaceShare};

/// A response's body on its way to the client.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a box would cost each answer an allocation")]
pub(crate) enum ResponseBody {
    /// The resource's body.
    Through(Through),
    /// The DLX's own body; `None` once sent.
    Own(Option<Bytes>),
    /// No body, although the head has its length (304). Its length is unknown to hyper, which would otherwise remove the
    /// length from the head.
    Withheld,
}

/// A body from the resource.
#[derive(Debug)]
pub(crate) struct Through {
    incoming: FromResource,
    /// Counts the request in flight until the body is done or dropped.
    in_flight: Option<InFlight>,
    /// Keeps the request in flight after that, while its body still arrives.
    unanswered: Option<Unanswered>,
}

/// Who reads a body from the resource.
#[derive(Debug)]
pub(crate) enum FromResource {
    /// The DLX, over HTTP/1.1.
    Http1(AnswerBody),
    /// The HTTP library.
    Library(LibraryBody),
}

// === impl ResponseBody ===

impl ResponseBody {
    /// No body.
    pub(crate) fn empty() -> Self {
        ResponseBody::Own(None)
    }

    /// The namespace of the resource, until the body's end.
    pub(crate) fn share(&self) -> Option<&Arc<NamespaceShare>> {
        match self {
            ResponseBody::Through(through) => Some(&through.in_flight.as_ref()?.resource().share),
            ResponseBody::Own(_) | ResponseBody::Withheld => None,
        }
    }

    /// Wraps the resource's body.
    pub(crate) fn through(
        response: Response<FromResource>,
        in_flight: InFlight,
        unanswered: Option<Unanswered>,
    ) -> Response<Self> {
        response.map(|incoming| {
            let mut through = Through { incoming, in_flight: Some(in_flight), unanswered };
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
    type Error = UpstreamError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        match self.get_mut() {
            ResponseBody::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            ResponseBody::Withheld => Poll::Ready(None),
            ResponseBody::Through(through) => {
                let frame = std::task::ready!(through.incoming.poll_frame(cx));
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
    /// The whole body has arrived.
    fn ended(&mut self) {
        if let (FromResource::Http1(body), Some(in_flight)) = (&mut self.incoming, &self.in_flight) {
            body.return_connection(in_flight.resource());
        }
        if let (Some(in_flight), Some(unanswered)) = (self.in_flight.take(), self.unanswered.take()) {
            unanswered.answered(in_flight);
        }
    }
}

// === impl FromResource ===

impl FromResource {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        match self {
            FromResource::Http1(body) => Pin::new(body).poll_frame(cx),
            FromResource::Library(body) => {
                Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| Ok(frame?)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            FromResource::Http1(body) => body.is_end_stream(),
            FromResource::Library(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            FromResource::Http1(body) => body.size_hint(),
            FromResource::Library(body) => body.size_hint(),
        }
    }
}
