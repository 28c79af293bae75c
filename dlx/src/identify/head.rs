//! Checks the head of an HTTP/1 request and reads what it says. Held or forwarded, each request is checked here and
//! nowhere else, before the HTTP library sees a byte of it: a refused request wakes nothing.

use std::mem::MaybeUninit;

use http::{HeaderMap, HeaderValue, Uri, header};
use httparse::{Header, Status};

use crate::{
    answer::ErrorResponse,
    fault::{SeededFault, is_seeded},
    state::is_host,
};

/// The longest head, the request line included. (nginx takes 32 KiB.)
pub(crate) const MAX_HEAD_BYTES: usize = 64 * 1024;
/// The most fields of a head, also of a response.
pub(crate) const MAX_FIELDS: usize = 1000;
/// The largest Content-Length: what signed 64-bit numbers hold, as the servers behind use them.
const MAX_BODY_BYTES: u64 = i64::MAX as u64;

/// Room for the fields of a head.
#[derive(Debug)]
pub(crate) struct HeadFields<'b>([MaybeUninit<Header<'b>>; MAX_FIELDS]);

/// A valid head.
#[derive(Debug)]
pub(crate) struct Head<'h, 'b> {
    /// Its bytes, empty lines before it included.
    pub(crate) len: usize,
    /// The body that follows.
    pub(crate) body: Length,
    /// Whether it asks to switch protocols: what follows may be another protocol.
    pub(crate) switches: bool,
    /// Whether it is HTTP/1.1; otherwise HTTP/1.0.
    pub(crate) is_http11: bool,
    /// Its method.
    pub(crate) method: &'b str,
    /// Its target, as sent.
    pub(crate) target: &'b str,
    /// The Host; `None` if it has none, or names it in its target.
    pub(crate) host: Option<&'b str>,
    /// Its fields.
    pub(crate) fields: &'h [Header<'b>],
}

/// The length of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// This many bytes; 0 is none.
    Known(u64),
    /// Chunked.
    Chunked,
}

// === impl HeadFields ===

impl HeadFields<'_> {
    /// Room for the most fields.
    pub(crate) fn room() -> Self {
        Self([const { MaybeUninit::uninit() }; MAX_FIELDS])
    }
}

// === impl Head ===

impl<'h, 'b> Head<'h, 'b> {
    /// Reads the head at the beginning of these bytes; `None`: it does not end in them.
    ///
    /// # Errors
    ///
    /// It is malformed: the answer.
    pub(crate) fn read(bytes: &'b [u8], room: &'h mut HeadFields<'b>) -> Result<Option<Self>, ErrorResponse> {
        let mut parsed = httparse::Request::new(&mut []);
        let len = match parsed.parse_with_uninit_headers(bytes, &mut room.0) {
            Ok(Status::Complete(len)) if len <= MAX_HEAD_BYTES => len,
            Ok(Status::Partial) if bytes.len() < MAX_HEAD_BYTES => return Ok(None),
            Ok(_) => return Err(too_long(bytes)),
            Err(error) => return Err(no_head(bytes, error)),
        };
        let (Some(method), Some(target)) = (parsed.method, parsed.path) else {
            return Err(malformed("it has no request line"));
        };
        let is_http11 = parsed.version == Some(1);
        let fields: &'h [Header<'b>] = parsed.headers;
        let framing = Framing::read(fields)?;
        let body = framing.length(is_http11)?;
        let names_host = check_target(method, target)?;
        let host = match framing.host {
            _ if names_host => None,
            Some(host) => Some(check_host(host)?),
            None if is_http11 => return Err(malformed("it has no Host header")),
            None => None,
        };
        let switches = framing.upgrade && is_http11;
        Ok(Some(Self { len, body, switches, is_http11, method, target, host, fields }))
    }

    /// The first field of this name, which is in lower case.
    pub(crate) fn field(&self, name: &str) -> Option<&'b [u8]> {
        self.fields.iter().find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    }
}

/// The fields that say how the message is to be read.
#[derive(Debug, Default)]
struct Framing<'b> {
    hosts: usize,
    host: Option<&'b [u8]>,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
}

// === impl Framing ===

impl<'b> Framing<'b> {
    fn read(fields: &[Header<'b>]) -> Result<Self, ErrorResponse> {
        let mut framing = Self::default();
        for Header { name, value } in fields {
            // Compared by their lengths first: most fields are none of these.
            match name.len() {
                4 if name.eq_ignore_ascii_case("host") => {
                    framing.hosts += 1;
                    framing.host = Some(value);
                }
                7 if name.eq_ignore_ascii_case("upgrade") => framing.upgrade = true,
                14 if name.eq_ignore_ascii_case("content-length") => {
                    let length = length(value)?;
                    if framing.length.replace(length).is_some_and(|before| before != length) {
                        return Err(malformed("it has two different Content-Length values"));
                    }
                }
                17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                    if framing.chunked || !is_chunked(value) {
                        return Err(malformed("its Transfer-Encoding is not exactly chunked"));
                    }
                    framing.chunked = true;
                }
                _ => {}
            }
        }
        match framing.hosts {
            _ if is_seeded(SeededFault::SecondHost) => Ok(framing),
            0 | 1 => Ok(framing),
            _ => Err(malformed("it has two Host headers")),
        }
    }

    fn length(&self, is_http11: bool) -> Result<Length, ErrorResponse> {
        match (self.chunked, self.length) {
            (false, length) => Ok(Length::Known(length.unwrap_or(0))),
            // A proxy in front may have used the length: what follows here was a body there.
            (true, Some(_)) => Err(malformed("it has both Content-Length and Transfer-Encoding")),
            (true, None) if !is_http11 => Err(malformed("HTTP/1.0 knows no Transfer-Encoding")),
            (true, None) => Ok(Length::Chunked),
        }
    }
}

/// What a Content-Length says (RFC 9110 8.6): digits and nothing else.
///
/// # Errors
///
/// It is no number, or too large.
pub(crate) fn length(value: &[u8]) -> Result<u64, ErrorResponse> {
    let signed = value.strip_prefix(b"+").filter(|_| is_seeded(SeededFault::LaxLength));
    let digits = std::str::from_utf8(signed.unwrap_or(value))
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let length = digits.and_then(|digits| digits.parse().ok()).filter(|length| *length <= MAX_BODY_BYTES);
    length.ok_or_else(|| malformed("its Content-Length is not a number, or too large"))
}

/// Checks that a request may have this method.
///
/// # Errors
///
/// It is not supported, or reserved.
pub(super) fn check_method(method: &str) -> Result<(), ErrorResponse> {
    match method {
        "CONNECT" => Err(malformed("the method CONNECT is not supported")),
        // A server that takes the beginning of a connection for HTTP/2 (RFC 9113 3.4) would read it as another protocol.
        "PRI" => Err(malformed("the method PRI is reserved for HTTP/2")),
        _ => Ok(()),
    }
}

/// Whether the target names the host (RFC 9112 3.2).
fn check_target(method: &str, target: &str) -> Result<bool, ErrorResponse> {
    check_method(method)?;
    if target.starts_with('/') && target.bytes().all(is_plain) || target == "*" && method == "OPTIONS" {
        return Ok(false);
    }
    let uri = Uri::try_from(target).map_err(|_| malformed("its target is not a valid URL"))?;
    match (uri.scheme(), uri.authority()) {
        (None, None) if target.starts_with('/') => Ok(false),
        (Some(_), Some(authority)) if is_host(authority.as_str()) => Ok(true),
        (Some(_), Some(_)) => Err(malformed("its Host is no host name")),
        _ => Err(malformed("its target is neither a path nor a URL")),
    }
}

/// Bytes that may stand anywhere in a path and a query: most targets have no others.
pub(crate) fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/-._~?=&%+:,;@!$'()*".contains(&byte)
}

fn check_host(host: &[u8]) -> Result<&str, ErrorResponse> {
    let is_text = host.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
    let Some(host) = std::str::from_utf8(host).ok().filter(|_| is_text) else {
        return Err(malformed("its Host header is not text"));
    };
    // A target without a host has an empty Host (RFC 9112 3.2); any other must be a host.
    if host.is_empty() || is_host(host) { Ok(host) } else { Err(malformed("its Host is no host name")) }
}

fn malformed(reason: &str) -> ErrorResponse {
    ErrorResponse::malformed(reason)
}

/// Whether a head that began with `before` may end in `bytes`, which follow.
pub(crate) fn may_end(before: &[u8], bytes: &[u8]) -> bool {
    // An empty line after another line, whichever way the two end.
    let ends = |bytes: &[u8]| {
        memchr::memmem::find(bytes, b"\n\r\n").is_some() || memchr::memmem::find(bytes, b"\n\n").is_some()
    };
    let mut seam = [0; 4];
    let (before, first) = (&before[before.len().saturating_sub(2)..], &bytes[..bytes.len().min(2)]);
    seam[..before.len()].copy_from_slice(before);
    seam[before.len()..][..first.len()].copy_from_slice(first);
    ends(bytes) || ends(&seam)
}

/// The first line, without the empty ones before it.
fn first_line(bytes: &[u8]) -> Option<&[u8]> {
    let begin = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n'))?;
    let end = memchr::memchr(b'\n', &bytes[begin..])?;
    Some(bytes[begin..begin + end].trim_ascii_end())
}

fn too_long(bytes: &[u8]) -> ErrorResponse {
    match first_line(&bytes[..MAX_HEAD_BYTES.min(bytes.len())]) {
        Some(_) => ErrorResponse::long_head(MAX_HEAD_BYTES),
        None => ErrorResponse::long_target(MAX_HEAD_BYTES),
    }
}

fn no_head(bytes: &[u8], error: httparse::Error) -> ErrorResponse {
    if error == httparse::Error::TooManyHeaders {
        return ErrorResponse::many_fields(MAX_FIELDS);
    }
    let has_version = |line: &[u8]| line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0");
    match first_line(bytes) {
        Some(line) if !has_version(line) => {
            malformed("its first line does not end with HTTP/1.1 or HTTP/1.0")
        }
        _ => malformed(&format!("its head cannot be read: {error}")),
    }
}

/// Whether a message has a transfer coding that is not decoded here.
pub(crate) fn coded(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter().map(HeaderValue::as_bytes);
    codings.next().is_some_and(|first| !is_chunked(first) || codings.next().is_some())
}

/// Whether a transfer coding is chunked, and nothing else.
fn is_chunked(coding: &[u8]) -> bool {
    let coding = coding.trim_ascii();
    coding.eq_ignore_ascii_case(b"chunked")
        || is_seeded(SeededFault::ChunkedTwice) && coding == b"chunked, chunked"
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
        }
        headers
    }

    #[test]
    fn chunked_is_the_only_coding_known() {
        for known in [&[][..], &[("transfer-encoding", "Chunked ")]] {
            assert!(!coded(&headers(known)), "{known:?}");
        }
        let twice = [("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")];
        for unknown in
            [&[("transfer-encoding", "gzip, chunked")][..], &[("transfer-encoding", "gzip")], &twice]
        {
            assert!(coded(&headers(unknown)), "{unknown:?}");
        }
    }
}
