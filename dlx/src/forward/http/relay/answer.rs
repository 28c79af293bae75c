//! Reads the head of an answer, and writes it for the client.

use std::mem::MaybeUninit;

use httparse::{Header, Status};

use super::{
    super::{
        answer_framing::{AnswerFraming, AnswerLength, malformed, reason},
        dial::UpstreamError,
        headers,
    },
    body::Body,
};
use crate::identify::head::MAX_FIELDS;

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
        let framing = AnswerFraming::read(parsed.headers, version == 1)?;
        let body = match framing.body(status, to_head) {
            AnswerLength::Known(length) => Body::of_length(length),
            AnswerLength::Chunked => Some(Body::chunked()),
            AnswerLength::ToTheEnd => Some(Body::ToTheEnd),
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
        write_fields(&framing, parsed.headers, (status, passes_length, passes_coding), out);
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

/// Writes the fields that are passed on.
fn write_fields(
    framing: &AnswerFraming<'_>,
    fields: &[Header<'_>],
    (status, passes_length, passes_coding): (u16, bool, bool),
    out: &mut Vec<u8>,
) {
    let mut length_written = false;
    let mut upgrade_written = false;
    for field in fields {
        let name = field.name;
        if name.eq_ignore_ascii_case("content-length") {
            // Equal ones are sent once (RFC 9110 8.6).
            if passes_length && !std::mem::replace(&mut length_written, true) {
                let first = field.value.split(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
                headers::write_field(out, name, first);
            }
        } else if status == 426 && name.eq_ignore_ascii_case("upgrade") && !upgrade_written {
            upgrade_written = true;
            out.extend_from_slice(b"Connection: upgrade\r\n");
            headers::write_field(out, name, field.value);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if passes_coding {
                headers::write_field(out, name, b"chunked");
            }
        } else if !headers::is_hop_by_hop(name) && !framing.names(name) {
            headers::write_field(out, name, field.value);
        }
    }
}

fn status_digits(status: u16) -> [u8; 3] {
    [100, 10, 1].map(|place| b'0' + (status / place % 10) as u8)
}
