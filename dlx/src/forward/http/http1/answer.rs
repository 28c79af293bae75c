//! The body of an answer, read from its connection as the client takes it.

use std::{
    future::Future as _,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use hyper::body::{Body, Frame, SizeHint};
use tokio::{net::tcp::OwnedReadHalf, task::JoinHandle};
use tokio_util::io::poll_read_buf;

use super::{
    super::{answer_framing::AnswerLength, dial::UpstreamError, pool::PooledConnection, upstream::is_closed},
    head::Framed,
};
use crate::{
    identify::chunks::{ChunkPart, Chunks},
    state::ResourceHandle,
};

/// How much is read at once.
const READ_BYTES: usize = 32 * 1024;
/// With less room than this, more memory is taken.
const MIN_ROOM: usize = 8 * 1024;

/// The body of an answer.
#[derive(Debug)]
pub(crate) struct AnswerBody {
    link: Link,
    /// Read and not passed on yet.
    ahead: Bytes,
    /// The rest of the memory that was read into.
    room: BytesMut,
    stage: Stage,
    keeps: bool,
}

/// The connection of an answer.
#[derive(Debug)]
enum Link {
    Whole(PooledConnection),
    /// The other half sends the rest of the request.
    BesideUpload(OwnedReadHalf, UploadTask),
    /// It was returned to the pool, or is closed.
    None,
}

/// The task that sends the rest of a request; an error is why its client broke that off. Dropped before the end of the
/// answer, it ends.
#[derive(Debug)]
pub(super) struct UploadTask(Option<JoinHandle<Result<(), String>>>);

/// What comes next of a body.
#[derive(Debug)]
enum Stage {
    /// This many bytes.
    Length(u64),
    /// Chunks, and the trailers so far.
    Chunked(Box<(Chunks, Vec<u8>)>),
    /// Everything to the end of the connection.
    ToTheEnd,
    /// The trailers.
    Trailers(HeaderMap),
    /// Nothing.
    End,
    /// Bytes that are no chunk.
    Broken,
}

// === impl UploadTask ===

impl UploadTask {
    pub(super) fn new(task: JoinHandle<Result<(), String>>) -> Self {
        Self(Some(task))
    }

    /// Fails if the client has broken off the request: the resource may wait for the rest of it for ever.
    fn check(&mut self, cx: &mut Context<'_>) -> Result<(), UpstreamError> {
        let Some(task) = &mut self.0 else { return Ok(()) };
        let Poll::Ready(ended) = Pin::new(task).poll(cx) else { return Ok(()) };
        self.0 = None;
        ended.map_err(|_| UpstreamError::Incomplete)?.map_err(UpstreamError::Abandoned)
    }

    /// Lets it go on.
    fn detach(mut self) {
        self.0 = None;
    }
}

impl Drop for UploadTask {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

// === impl AnswerBody ===

impl AnswerBody {
    /// A body on a connection on which nothing else is under way.
    pub(super) fn new(connection: PooledConnection, framed: Framed) -> Self {
        Self::on(Link::Whole(connection), framed)
    }

    /// A body whose request is still being sent.
    pub(super) fn beside_upload(from: OwnedReadHalf, upload: UploadTask, framed: Framed) -> Self {
        Self::on(Link::BesideUpload(from, upload), framed)
    }

    fn on(link: Link, Framed { length, ahead, keeps }: Framed) -> Self {
        let stage = match length {
            AnswerLength::Known(0) => Stage::End,
            AnswerLength::Known(length) => Stage::Length(length),
            AnswerLength::Chunked => Stage::Chunked(Box::new((Chunks::new(), Vec::new()))),
            AnswerLength::ToTheEnd => Stage::ToTheEnd,
        };
        Self { link, ahead, room: BytesMut::new(), stage, keeps }
    }

    /// When the body has ended: returns its connection to the pool, if another request can follow on it.
    pub(crate) fn return_connection(&mut self, resource: &ResourceHandle) {
        match std::mem::replace(&mut self.link, Link::None) {
            // What follows an answer is no answer to anything.
            Link::Whole(connection) if self.keeps && self.ahead.is_empty() => {
                connection.return_to_pool(resource);
            }
            // A resource that closes the connection takes no more of the request.
            Link::BesideUpload(_, upload) if self.keeps => upload.detach(),
            Link::Whole(_) | Link::BesideUpload(..) | Link::None => {}
        }
    }

    /// The next data among the bytes that were read.
    fn next_data(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        match &mut self.stage {
            Stage::Length(left) => {
                let len = self.ahead.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= len as u64;
                if *left == 0 {
                    self.stage = Stage::End;
                }
                Ok(Some(self.ahead.split_to(len)).filter(|data| !data.is_empty()))
            }
            Stage::ToTheEnd => Ok(Some(std::mem::take(&mut self.ahead)).filter(|data| !data.is_empty())),
            Stage::Chunked(..) => self.next_chunk(),
            Stage::Trailers(_) | Stage::End => Ok(None),
            Stage::Broken => Err(UpstreamError::BrokenChunk),
        }
    }

    /// The next data of a chunk; goes on over what frames it, so that the body's end is known with its last data.
    fn next_chunk(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        let mut data = None;
        while let Stage::Chunked(chunked) = &mut self.stage
            && !self.ahead.is_empty()
        {
            let (chunks, trailers) = &mut **chunked;
            if data.is_some() && chunks.is_in_data() {
                break;
            }
            match chunks.next_part(&self.ahead) {
                ChunkPart::Data(len) => data = Some(self.ahead.split_to(len)),
                ChunkPart::Framing(len) => self.ahead.advance(len),
                ChunkPart::Trailers(len) => trailers.extend_from_slice(&self.ahead.split_to(len)),
                ChunkPart::End(len) => {
                    trailers.extend_from_slice(&self.ahead.split_to(len));
                    let trailers = parse_trailers(trailers)?;
                    self.stage = if trailers.is_empty() { Stage::End } else { Stage::Trailers(trailers) };
                }
                // The data before them is valid.
                ChunkPart::Broken => self.stage = Stage::Broken,
            }
        }
        match self.stage {
            Stage::Broken if data.is_none() => Err(UpstreamError::BrokenChunk),
            _ => Ok(data),
        }
    }

    /// Reads more. Ready with `false`: the connection has ended.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, UpstreamError>> {
        if let Link::BesideUpload(_, upload) = &mut self.link {
            upload.check(cx)?;
        }
        let from = match &self.link {
            Link::Whole(connection) => &connection.stream,
            Link::BesideUpload(from, _) => from.as_ref(),
            Link::None => return Poll::Ready(Err(UpstreamError::Incomplete)),
        };
        // No memory is kept or taken before something has come.
        if from.poll_read_ready(cx)?.is_pending() {
            self.room = BytesMut::new();
            return Poll::Pending;
        }
        if self.room.capacity() < MIN_ROOM {
            let left = match self.stage {
                Stage::Length(left) => usize::try_from(left).unwrap_or(usize::MAX),
                _ => READ_BYTES,
            };
            self.room.reserve(left.clamp(MIN_ROOM, READ_BYTES));
        }
        let room = &mut self.room;
        let read = match &mut self.link {
            Link::Whole(connection) => poll_read_buf(Pin::new(&mut connection.stream), cx, room),
            Link::BesideUpload(from, _) => poll_read_buf(Pin::new(from), cx, room),
            Link::None => Poll::Ready(Ok(0)),
        };
        let read = match ready!(read) {
            Err(error) if is_closed(&error) => return Poll::Ready(Err(UpstreamError::Incomplete)),
            read => read?,
        };
        self.ahead = self.room.split().freeze();
        Poll::Ready(Ok(read > 0))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = UpstreamError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        let this = self.get_mut();
        loop {
            if let Some(data) = this.next_data()? {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            match &mut this.stage {
                Stage::End => return Poll::Ready(None),
                Stage::Trailers(trailers) => {
                    let trailers = std::mem::take(trailers);
                    this.stage = Stage::End;
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Stage::Length(_) | Stage::Chunked(..) | Stage::ToTheEnd | Stage::Broken => {}
            }
            if !ready!(this.poll_more(cx))? {
                if !matches!(this.stage, Stage::ToTheEnd) {
                    return Poll::Ready(Some(Err(UpstreamError::Incomplete)));
                }
                this.stage = Stage::End;
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.stage, Stage::End)
    }

    fn size_hint(&self) -> SizeHint {
        match self.stage {
            Stage::Length(left) => SizeHint::with_exact(left),
            Stage::End => SizeHint::with_exact(0),
            _ => SizeHint::default(),
        }
    }
}

/// The trailers, and the empty line after them.
fn parse_trailers(bytes: &[u8]) -> Result<HeaderMap, UpstreamError> {
    let mut trailers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty()) {
        let colon = memchr::memchr(b':', line).ok_or(UpstreamError::BrokenChunk)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) else {
            return Err(UpstreamError::BrokenChunk);
        };
        trailers.append(name, value);
    }
    Ok(trailers)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http_body_util::BodyExt;
    use scaler_types::Endpoint;
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;
    use crate::{forward::http::Pool, state::EndpointTarget};

    /// As events that come now and then.
    #[tokio::test]
    async fn an_answer_that_pauses_keeps_no_memory() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = EndpointTarget::new(Endpoint::new(listener.local_addr().unwrap().to_string(), ""));
        let connection = Pool::new().dial(&target).await.unwrap();
        let (mut resource, _) = listener.accept().await.unwrap();
        let framed = Framed { length: AnswerLength::ToTheEnd, ahead: Bytes::new(), keeps: false };
        let mut body = AnswerBody::new(connection, framed);
        for _ in 0..2 {
            resource.write_all(b"event").await.unwrap();
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "event");
            assert!(body.room.capacity() > 0);
            let is_pending = poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx).is_pending())).await;
            assert!(is_pending);
            assert_eq!(body.room.capacity(), 0);
        }
    }
}
