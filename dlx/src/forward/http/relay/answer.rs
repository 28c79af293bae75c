//! Reads the head of an answer, and writes it for the client.

use std::mem::MaybeUninit;

use httparse::{Header, Status};

use super::{
    super::{dial::UpstreamError, headers},
    body::Body,
    request::write_field,
};
use crate::identify::head::{self, MAX_FIELDS};

/// The head of an answer.
#[derive(Debug)]
pub(super) struct AnswerHead {
    /// Its bytes.
    pub(super) len: usize,
    /// Its status.
    pub(super) status: u16,
    /// Its body; `None` if it has none.
    pub(super) body: Option<Body>,
    /// Whether the resource keeps the connection.
    pub(super) keeps: bool,
}

/// How an answer's body is framed.
#[derive(Debug, Default)]
struct Framing<'b> {
    chunked: bool,
    length: Option<u64>,
    close: bool,
    /// The values of `Connection` that name fields.
    named: Vec<&'b [u8]>,
}

// === impl AnswerHead ===

impl AnswerHead {
    /// Reads the head at the beginning of these bytes, and writes it to `out` for a client of HTTP/1.1. `add` adds fields
    /// of its own; it gets whether the resource keeps its connection. `to_head`: the request was a HEAD. `None`: the head
    /// does not end in these bytes.
    ///
    /// # Errors
    ///
    /// It is malformed, or cannot be passed on.
    pub(super) fn read(
        bytes: &[u8],
        to_head: bool,
        add: impl FnOnce(bool, &mut Vec<u8>),
        out: &mut Vec<u8>,
    ) -> Result<Option<Self>, UpstreamError> {
        let mut room = [const { MaybeUninit::<Header<'_>>::uninit() }; MAX_FIELDS];
        let mut parsed = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let len = match config.parse_response_with_uninit_headers(&mut parsed, bytes, &mut room) {
            Ok(Status::Complete(len)) => len,
            Ok(Status::Partial) => return Ok(None),
            Err(error) => return Err(malformed(error)),
        };
        let (Some(status), Some(version)) = (parsed.code, parsed.version) else {
            return Err(UpstreamError::Malformed("it has no status line"));
        };
        if status < 100 {
            return Err(UpstreamError::Malformed("its status is below 100"));
        }
        if status == 101 {
            return Err(UpstreamError::UnrequestedSwitch);
        }
        let informational = status < 200;
        let framing = Framing::read(parsed.headers, version == 1)?;
        let body = match (framing.chunked, framing.length) {
            _ if informational || to_head || matches!(status, 204 | 304) => None,
            (true, _) => Some(Body::chunked()),
            (false, Some(length)) => Body::of_length(length),
            (false, None) => Some(Body::ToTheEnd),
        };
        let keeps = version == 1 && !framing.close && !matches!(body, Some(Body::ToTheEnd));
        let reason = reason(&bytes[..len]);
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(&status_digits(status));
        out.push(b' ');
        out.extend_from_slice(reason);
        out.extend_from_slice(b"\r\n");
        let passes_length = !informational && status != 204 && !framing.chunked;
        let passes_coding = !informational && status != 204;
        framing.write_fields(parsed.headers, (status, passes_length, passes_coding), out);
        if matches!(body, Some(Body::ToTheEnd)) {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
        if !informational {
            add(keeps, out);
        }
        out.extend_from_slice(b"\r\n");
        Ok(Some(Self { len, status, body, keeps }))
    }

    /// Whether another head follows.
    pub(super) fn is_informational(&self) -> bool {
        self.status < 200
    }
}

// === impl Framing ===

impl<'b> Framing<'b> {
    fn read(fields: &[Header<'b>], is_http11: bool) -> Result<Self, UpstreamError> {
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

    /// Writes the fields that are passed on.
    fn write_fields(
        &self,
        fields: &[Header<'b>],
        (status, passes_length, passes_coding): (u16, bool, bool),
        out: &mut Vec<u8>,
    ) {
        let mut length_written = false;
        let mut upgrade_written = false;
        for field in fields {
            let name = field.name;
            let is_named = || self.named.iter().any(|named| headers::may_be_named(name, named));
            if name.eq_ignore_ascii_case("content-length") {
                // Equal ones are sent once (RFC 9110 8.6).
                if passes_length && !std::mem::replace(&mut length_written, true) {
                    let first = field.value.split(|byte| *byte == b',').next().unwrap_or_default();
                    write_field(out, &Header { name, value: first });
                }
            } else if status == 426 && name.eq_ignore_ascii_case("upgrade") && !upgrade_written {
                upgrade_written = true;
                out.extend_from_slice(b"Connection: upgrade\r\n");
                write_field(out, field);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                if passes_coding {
                    write_field(out, &Header { name, value: b"chunked" });
                }
            } else if !headers::is_hop_by_hop(name) && !is_named() {
                write_field(out, field);
            }
        }
    }
}

fn malformed(error: httparse::Error) -> UpstreamError {
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
fn reason(head: &[u8]) -> &[u8] {
    let begin = head.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or_default();
    let head = &head[begin..];
    let line = &head[..memchr::memchr(b'\n', head).unwrap_or(head.len())];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    // `HTTP/1.1 200 `
    line.get(13..).unwrap_or_default()
}

fn status_digits(status: u16) -> [u8; 3] {
    [100, 10, 1].map(|place| b'0' + (status / place % 10) as u8)
}
