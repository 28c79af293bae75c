//! How the body of an answer is framed, by its head.

use httparse::Header;

use super::{dial::UpstreamError, headers};
use crate::identify::head;

/// The longest head of an answer; hyper's limit.
pub(super) const MAX_HEAD_BYTES: usize = 400 * 1024;
/// It is longer.
pub(super) const LONG_HEAD: UpstreamError = UpstreamError::Malformed("its head is too long");
/// The most answers of status 1xx before an answer.
pub(super) const MAX_INFORMATIONAL: usize = 100;
/// More of them came.
pub(super) const TOO_MANY_INFORMATIONAL: UpstreamError =
    UpstreamError::Malformed("too many answers of status 1xx before it");

/// What the fields of an answer's head say of its body and its connection.
#[derive(Debug, Default)]
pub(super) struct AnswerFraming<'b> {
    /// The body is chunked.
    pub(super) chunked: bool,
    length: Option<u64>,
    /// The resource closes the connection after it.
    pub(super) close: bool,
    /// The values of `Connection` that name fields.
    named: Vec<&'b [u8]>,
}

/// The length of an answer's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AnswerLength {
    /// This many bytes; 0 is none.
    Known(u64),
    /// Chunked.
    Chunked,
    /// Everything to the end of the connection.
    ToTheEnd,
}

// === impl AnswerFraming ===

impl<'b> AnswerFraming<'b> {
    /// Reads these fields.
    ///
    /// # Errors
    ///
    /// They contradict each other, or cannot be understood.
    pub(super) fn read(fields: &[Header<'b>], is_http11: bool) -> Result<Self, UpstreamError> {
        let mut framing = Self::default();
        for Header { name, value } in fields {
            match name.len() {
                10 if name.eq_ignore_ascii_case("connection") => {
                    for word in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                        if word.eq_ignore_ascii_case(b"close") {
                            framing.close = true;
                        } else if !word.eq_ignore_ascii_case(b"keep-alive") {
                            framing.named.push(word);
                        }
                    }
                }
                14 if name.eq_ignore_ascii_case("content-length") => {
                    for value in value.split(|byte| *byte == b',') {
                        let Ok(length) = head::length(value.trim_ascii()) else {
                            return Err(UpstreamError::Malformed(
                                "its Content-Length is not a number, or too large",
                            ));
                        };
                        if framing.length.replace(length).is_some_and(|before| before != length) {
                            return Err(UpstreamError::Malformed(
                                "it has two different Content-Length values",
                            ));
                        }
                    }
                }
                17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                    if framing.chunked || !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                        return Err(UpstreamError::TransferCoding);
                    }
                    framing.chunked = true;
                }
                _ => {}
            }
        }
        if framing.chunked && !is_http11 {
            return Err(UpstreamError::Malformed("HTTP/1.0 knows no Transfer-Encoding"));
        }
        Ok(framing)
    }

    /// The body of an answer of this status. `to_head`: the request was a HEAD.
    pub(super) fn body(&self, status: u16, to_head: bool) -> AnswerLength {
        match (self.chunked, self.length) {
            _ if status < 200 || to_head || matches!(status, 204 | 304) => AnswerLength::Known(0),
            (true, _) => AnswerLength::Chunked,
            (false, Some(length)) => AnswerLength::Known(length),
            (false, None) => AnswerLength::ToTheEnd,
        }
    }

    /// Whether `Connection` names this field, and it may be removed because of that.
    pub(super) fn names(&self, name: &str) -> bool {
        self.named.iter().any(|named| headers::may_be_named(name, named))
    }
}

/// Why a head cannot be read.
pub(super) fn malformed(error: httparse::Error) -> UpstreamError {
    UpstreamError::Malformed(match error {
        httparse::Error::HeaderName => "the name of a field is invalid",
        httparse::Error::HeaderValue => "the value of a field is invalid",
        httparse::Error::NewLine => "a line has an invalid end",
        httparse::Error::Status => "its status line is invalid",
        httparse::Error::TooManyHeaders => "it has too many fields",
        httparse::Error::Version => "it is neither HTTP/1.1 nor HTTP/1.0",
        httparse::Error::Token => "it is not HTTP",
    })
}

/// The reason phrase, as it came: httparse leaves out one that is not ASCII.
pub(super) fn reason(head: &[u8]) -> &[u8] {
    let begin = head.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or_default();
    let head = &head[begin..];
    let line = &head[..memchr::memchr(b'\n', head).unwrap_or(head.len())];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    // `HTTP/1.1 200 `
    line.get(13..).unwrap_or_default()
}
