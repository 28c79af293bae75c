//! Answers: whole bodies, and bodies that go on as a watch does.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame};
use serde_json::Value;
use tokio::sync::mpsc;

use super::failure::Failure;

/// The answer to a request.
pub type Answer = Response<Either<Full<Bytes>, Stream>>;

/// A body whose pieces come from a task, until the task lets go of the other end.
#[derive(Debug)]
pub struct Stream(mpsc::Receiver<Bytes>);

/// A JSON text with status 200.
pub fn json_text(text: Bytes) -> Answer {
    json_with(StatusCode::OK, text)
}

/// A JSON text.
pub fn json_with(status: StatusCode, text: Bytes) -> Answer {
    let mut answer = Response::new(Either::Left(Full::new(text)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// A JSON value with status 200.
pub fn json(value: &Value) -> Answer {
    json_text(Bytes::from(value.to_string()))
}

/// A refusal.
pub fn failure(failure: &Failure) -> Answer {
    let mut answer = if failure.reason.is_empty() {
        let mut answer = json_with(failure.code, Bytes::from(failure.message.clone()));
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        answer.headers_mut().insert(header::CONTENT_TYPE, plain);
        answer
    } else {
        json_with(failure.code, Bytes::from(failure.status().to_string()))
    };
    if let Some(seconds) = failure.retry_after {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}

/// An answer that goes on, and the end to feed it by.
pub fn stream() -> (mpsc::Sender<Bytes>, Answer) {
    let (pieces, body) = mpsc::channel(16);
    let mut answer = Response::new(Either::Right(Stream(body)));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    (pieces, answer)
}

// === impl Stream ===

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}
