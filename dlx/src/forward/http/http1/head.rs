//! Reads the head of an answer.

use std::{
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header, response,
};
use httparse::{Header, Status};
use hyper::ext::ReasonPhrase;
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

use super::super::{
    RequestBody,
    answer_framing::{
        AnswerFraming, AnswerLength, LONG_HEAD, MAX_HEAD_BYTES, MAX_INFORMATIONAL, TOO_MANY_INFORMATIONAL,
        malformed, reason,
    },
    dial::UpstreamError,
    headers,
};
use crate::identify::head::{MAX_FIELDS, may_end};

/// How much is read at once: the head, and what comes with it of the body.
const READ_BYTES: usize = 8 * 1024;

/// Reads the head of an answer from a connection, and passes over those of status 1xx before it.
#[derive(Debug)]
pub(super) struct HeadReader {
    /// Whether the request was a HEAD,
    to_head: bool,
    /// and of HTTP/1.0: after its answer the resource closes the connection, whatever that says.
    http10: bool,
    /// Read and not understood yet. Without memory until the first byte has come.
    bytes: BytesMut,
    began: bool,
    /// How many answers of status 1xx came.
    informational: usize,
}

/// An answer's body, by its head.
#[derive(Debug)]
pub(super) struct Framed {
    /// Its length.
    pub(super) length: AnswerLength,
    /// What came with the head.
    pub(super) ahead: Bytes,
    /// Whether the resource keeps the connection.
    pub(super) keeps: bool,
}

/// What some bytes are.
enum Parsed {
    Head(response::Parts, Framed),
    /// A head of status 1xx, of this length.
    Informational(usize),
    Partial,
}

// === impl HeadReader ===

impl HeadReader {
    /// For the answer to this request.
    pub(super) fn new(request: &Request<RequestBody>) -> Self {
        let to_head = request.method() == Method::HEAD;
        let http10 = request.version() == Version::HTTP_10;
        Self { to_head, http10, bytes: BytesMut::new(), began: false, informational: 0 }
    }

    /// Whether a byte of the answer came.
    pub(super) fn has_begun(&self) -> bool {
        self.began
    }

    /// Reads; ready when the head is there.
    ///
    /// # Errors
    ///
    /// The connection has ended or failed, or the head is malformed.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut TcpStream,
    ) -> Poll<Result<(response::Parts, Framed), UpstreamError>> {
        loop {
            ready!(stream.poll_read_ready(cx))?;
            let known = self.bytes.len();
            if self.bytes.capacity() - known < READ_BYTES / 2 {
                self.bytes.reserve(READ_BYTES.max(known));
            }
            if ready!(poll_read_buf(Pin::new(&mut *stream), cx, &mut self.bytes))? == 0 {
                return Poll::Ready(Err(UpstreamError::Incomplete));
            }
            self.began = true;
            let (before, new) = self.bytes.split_at(known);
            if (known == 0 || may_end(before, new))
                && let Some(read) = self.parse()?
            {
                return Poll::Ready(Ok(read));
            }
            if self.bytes.len() >= MAX_HEAD_BYTES {
                return Poll::Ready(Err(LONG_HEAD));
            }
        }
    }

    fn parse(&mut self) -> Result<Option<(response::Parts, Framed)>, UpstreamError> {
        loop {
            // The values of the fields are parts of these bytes.
            let bytes = std::mem::take(&mut self.bytes).freeze();
            let parsed = parse(&bytes, self.to_head)?;
            let left = match parsed {
                Parsed::Head(head, mut framed) => {
                    framed.keeps &= !self.http10;
                    return Ok(Some((head, framed)));
                }
                Parsed::Informational(len) => {
                    self.informational += 1;
                    if self.informational > MAX_INFORMATIONAL {
                        return Err(TOO_MANY_INFORMATIONAL);
                    }
                    bytes.slice(len..)
                }
                Parsed::Partial => {
                    self.bytes = bytes.try_into_mut().unwrap_or_else(|bytes| BytesMut::from(&bytes[..]));
                    return Ok(None);
                }
            };
            drop(bytes);
            self.bytes = left.try_into_mut().unwrap_or_else(|bytes| BytesMut::from(&bytes[..]));
            if self.bytes.is_empty() {
                return Ok(None);
            }
        }
    }
}

fn parse(bytes: &Bytes, to_head: bool) -> Result<Parsed, UpstreamError> {
    let mut room = [const { MaybeUninit::<Header<'_>>::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let len = match config.parse_response_with_uninit_headers(&mut parsed, bytes, &mut room) {
        Ok(Status::Complete(len)) => len,
        Ok(Status::Partial) => return Ok(Parsed::Partial),
        Err(error) => return Err(malformed(error)),
    };
    let (Some(code), Some(version)) = (parsed.code, parsed.version) else {
        return Err(UpstreamError::Malformed("it has no status line"));
    };
    let Ok(status) = StatusCode::from_u16(code) else {
        return Err(UpstreamError::Malformed("its status is below 100"));
    };
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(UpstreamError::UnrequestedSwitch);
    }
    if status.is_informational() {
        return Ok(Parsed::Informational(len));
    }
    let framing = AnswerFraming::read(parsed.headers, version == 1)?;
    let length = framing.body(code, to_head);
    let keeps = version == 1 && !framing.close && length != AnswerLength::ToTheEnd;
    let (mut head, ()) = Response::new(()).into_parts();
    head.status = status;
    head.headers = fields(bytes, parsed.headers, &framing, status)?;
    let reason = reason(&bytes[..len]);
    if status.canonical_reason().is_none_or(|known| known.as_bytes() != reason)
        && let Ok(reason) = ReasonPhrase::try_from(bytes.slice_ref(reason))
    {
        head.extensions.insert(reason);
    }
    Ok(Parsed::Head(head, Framed { length, ahead: bytes.slice(len..), keeps }))
}

/// The fields that are passed on.
fn fields(
    bytes: &Bytes,
    parsed: &[Header<'_>],
    framing: &AnswerFraming<'_>,
    status: StatusCode,
) -> Result<HeaderMap, UpstreamError> {
    let mut fields = HeaderMap::with_capacity(parsed.len());
    for Header { name, value } in parsed {
        let kept = match name.len() {
            14 if name.eq_ignore_ascii_case("content-length") => {
                // An answer of this status has no length (RFC 9110 8.6).
                status != StatusCode::NO_CONTENT
                    && !framing.chunked
                    && !fields.contains_key(header::CONTENT_LENGTH)
            }
            17 if name.eq_ignore_ascii_case("transfer-encoding") => false,
            // With this status it is for the client.
            7 if status == StatusCode::UPGRADE_REQUIRED && name.eq_ignore_ascii_case("upgrade") => true,
            _ => !headers::is_hop_by_hop(name) && !framing.names(name),
        };
        if !kept {
            continue;
        }
        let (Ok(name), Ok(mut value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_maybe_shared(bytes.slice_ref(value)))
        else {
            return Err(UpstreamError::Malformed("a field is invalid"));
        };
        if name == header::CONTENT_LENGTH {
            // Equal ones are sent once (RFC 9110 8.6).
            let first = value.as_bytes().split(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
            if first.len() < value.len() {
                value = HeaderValue::from_bytes(first)
                    .map_err(|_| UpstreamError::Malformed("its Content-Length is not a number"))?;
            }
        }
        fields.append(name, value);
    }
    Ok(fields)
}
