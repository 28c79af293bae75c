//! Finds the end of a chunked body (RFC 9112 7.1). Stricter than hyper: the bytes may be passed on as they are.

use super::peers::is_about_client;
use crate::fault::{SeededFault, is_seeded};

/// The most bytes of all extensions and trailers of one body; hyper's limit for each of the two.
const MAX_EXTRA: u32 = 16 * 1024;

/// The largest chunk: what signed 64-bit numbers hold, as the servers behind use them.
const MAX_CHUNK: u64 = i64::MAX as u64;
/// The most digits of its size.
const MAX_DIGITS: u8 = 16;
/// Fields that a trailer must not have (RFC 9110 6.5.1): a recipient that adds trailers to the head would frame or route by
/// them.
const FORBIDDEN_TRAILERS: [&str; 10] = [
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "cookie",
    "expect",
    "host",
    "te",
    "transfer-encoding",
    "upgrade",
];
/// The longest of them.
const MAX_FORBIDDEN: usize = 17;

/// The position in a chunked body.
#[derive(Debug)]
pub(crate) struct Chunks {
    next: Next,
    /// How much is left of the chunk.
    left: u64,
    /// Bytes of extensions and trailers so far.
    extra: u32,
    /// Digits of the chunk's size so far.
    digits: u8,
    /// The name of the current trailer as far as it matters, in lower case and with `-` for `_`, and its length.
    name: [u8; MAX_FORBIDDEN],
    name_len: usize,
}

/// The part of a chunked body that the next byte belongs to.
#[derive(Clone, Copy, Debug)]
enum Next {
    FirstDigit,
    Digit,
    Space,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// The first byte of a line after the last chunk.
    Line,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
}

/// What some bytes are of a body.
pub(crate) enum ChunksRead {
    /// All bytes belong to the body.
    All,
    /// This many do; then the body ends.
    End(usize),
    /// The last of this many is invalid.
    Broken(usize),
}

/// What the next bytes of a body are.
pub(crate) enum ChunkPart {
    /// This many are data.
    Data(usize),
    /// This many frame the data.
    Framing(usize),
    /// This many belong to the trailers, or to the line that ends them.
    Trailers(usize),
    /// The same, and the body ends with them.
    End(usize),
    /// They are invalid.
    Broken,
}

// === impl Chunks ===

impl Chunks {
    /// At the beginning of a body.
    pub(crate) fn new() -> Self {
        Self { next: Next::FirstDigit, left: 0, digits: 0, extra: 0, name: [0; MAX_FORBIDDEN], name_len: 0 }
    }

    /// Goes on by these bytes.
    pub(crate) fn follow(&mut self, bytes: &[u8]) -> ChunksRead {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            if let Next::Data = self.next {
                let here = (bytes.len() - at).min(usize::try_from(self.left).unwrap_or(usize::MAX));
                at += here;
                self.left -= here as u64;
                if self.left == 0 {
                    self.next = Next::DataCr;
                }
                continue;
            }
            at += 1;
            if matches!((self.next, byte), (Next::EndLf, b'\n')) {
                return ChunksRead::End(at);
            }
            match self.after(*byte) {
                Some(next) if self.extra <= MAX_EXTRA => self.next = next,
                _ => return ChunksRead::Broken(at),
            }
        }
        ChunksRead::All
    }

    /// Goes on by the bytes of one kind that these begin with.
    pub(crate) fn next_part(&mut self, bytes: &[u8]) -> ChunkPart {
        if self.is_in_data() {
            let here = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            // It stays within the data.
            self.follow(&bytes[..here]);
            return ChunkPart::Data(here);
        }
        let trailers = self.is_in_trailers();
        for (at, byte) in bytes.iter().enumerate() {
            match self.follow(std::slice::from_ref(byte)) {
                ChunksRead::All => {}
                ChunksRead::End(_) => return ChunkPart::End(at + 1),
                ChunksRead::Broken(_) => return ChunkPart::Broken,
            }
            if self.is_in_data() || self.is_in_trailers() != trailers {
                return ChunkPart::Framing(at + 1);
            }
        }
        if trailers { ChunkPart::Trailers(bytes.len()) } else { ChunkPart::Framing(bytes.len()) }
    }

    /// Whether the next byte is data.
    pub(crate) fn is_in_data(&self) -> bool {
        matches!(self.next, Next::Data)
    }

    fn is_in_trailers(&self) -> bool {
        matches!(
            self.next,
            Next::Line | Next::TrailerName | Next::TrailerValue | Next::TrailerLf | Next::EndLf
        )
    }

    /// The state after this byte; `None`: it is invalid here.
    fn after(&mut self, byte: u8) -> Option<Next> {
        Some(match (self.next, byte) {
            (Next::FirstDigit | Next::Digit, digit) if digit.is_ascii_hexdigit() => {
                if let Next::FirstDigit = self.next {
                    self.digits = 0;
                }
                self.digits += 1;
                let digit = char::from(digit).to_digit(16)?;
                if is_seeded(SeededFault::ChunkOverflow) {
                    self.left = self.left.wrapping_mul(16).wrapping_add(digit.into());
                    return Some(Next::Digit);
                }
                self.left = self.left.checked_mul(16)?.checked_add(digit.into())?;
                if self.left > MAX_CHUNK || self.digits > MAX_DIGITS {
                    return None;
                }
                Next::Digit
            }
            (Next::Digit | Next::Space, b' ' | b'\t') => self.extra(Next::Space),
            (Next::Digit | Next::Space, b';') => self.extra(Next::Extension),
            (Next::Digit | Next::Space | Next::Extension, b'\r') => Next::SizeLf,
            (Next::Extension, byte) if is_text(byte) => self.extra(Next::Extension),
            (Next::SizeLf, b'\n') if self.left == 0 => Next::Line,
            (Next::SizeLf, b'\n') => Next::Data,
            (Next::DataCr, b'\r') => Next::DataLf,
            (Next::DataLf, b'\n') => Next::FirstDigit,
            (Next::Line, b'\r') => Next::EndLf,
            (Next::TrailerName, b':') if !self.is_forbidden() => self.extra(Next::TrailerValue),
            (Next::Line | Next::TrailerName, byte) if is_token(byte) => {
                if let Next::Line = self.next {
                    self.name_len = 0;
                }
                if let Some(at) = self.name.get_mut(self.name_len) {
                    *at = if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
                }
                self.name_len += 1;
                self.extra(Next::TrailerName)
            }
            (Next::TrailerValue, b'\r') => Next::TrailerLf,
            (Next::TrailerValue, byte) if is_text(byte) => self.extra(Next::TrailerValue),
            (Next::TrailerLf, b'\n') => Next::Line,
            _ => return None,
        })
    }

    /// Whether the current trailer frames, routes, or is about the client.
    fn is_forbidden(&self) -> bool {
        let name = &self.name[..self.name_len.min(MAX_FORBIDDEN)];
        // A longer name can only begin like one that is about the client.
        let exact = self.name_len <= MAX_FORBIDDEN
            && FORBIDDEN_TRAILERS.iter().any(|forbidden| name == forbidden.as_bytes());
        exact || std::str::from_utf8(name).is_ok_and(is_about_client)
    }

    fn extra(&mut self, next: Next) -> Next {
        self.extra = self.extra.saturating_add(1);
        next
    }
}

/// Whether a field of this name, which is in lower case, may be a trailer.
pub(crate) fn may_be_trailer(name: &str) -> bool {
    let name = name.replace('_', "-");
    !FORBIDDEN_TRAILERS.contains(&&*name) && !is_about_client(&name)
}

/// A byte of a field's value (RFC 9110 5.5).
fn is_text(byte: u8) -> bool {
    byte == b'\t' || !byte.is_ascii_control()
}

/// A character of a method or of a field's name (RFC 9110 5.6.2).
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(bytes: &[u8]) -> bool {
        matches!(Chunks::new().follow(bytes), ChunksRead::End(len) if len == bytes.len())
    }

    #[test]
    fn fields_that_frame_or_route_are_no_trailers() {
        for name in ["X-Sum", "Server-Timing", "grpc-status", "Content-Lengthy", "A", "Transfer-Encoding-2"] {
            assert!(ends(format!("0\r\nX: y\r\n{name}: 1\r\n\r\n").as_bytes()), "{name}");
        }
        let others = [
            "Content-Length",
            "HOST",
            "content_length",
            "X-Forwarded-For",
            "x-forwarded-client-cert",
            "X_Real_IP",
        ];
        for name in FORBIDDEN_TRAILERS.into_iter().chain(others) {
            assert!(
                !ends(format!("0\r\nX-Longer-Than-All-Of-Them: y\r\n{name}: 1\r\n\r\n").as_bytes()),
                "{name}"
            );
        }
        assert!(FORBIDDEN_TRAILERS.iter().all(|name| name.len() <= MAX_FORBIDDEN));
    }

    #[test]
    fn the_parts_of_a_body_are_the_same_however_it_arrives() {
        let body = b"3;x=\"y\"\r\nabc\r\n0002\r\nde\r\n0\r\nX-Sum: 1\r\nY: 2\r\n\r\n";
        for size in [1, 2, 3, 7, body.len()] {
            let (mut chunks, mut data, mut trailers, mut ended) =
                (Chunks::new(), Vec::new(), Vec::new(), false);
            for mut bytes in body.chunks(size) {
                while !bytes.is_empty() {
                    let len = match chunks.next_part(bytes) {
                        ChunkPart::Data(len) => {
                            data.extend_from_slice(&bytes[..len]);
                            len
                        }
                        ChunkPart::Framing(len) => len,
                        ChunkPart::Trailers(len) => {
                            trailers.extend_from_slice(&bytes[..len]);
                            len
                        }
                        ChunkPart::End(len) => {
                            trailers.extend_from_slice(&bytes[..len]);
                            ended = true;
                            len
                        }
                        ChunkPart::Broken => panic!("it is valid"),
                    };
                    bytes = &bytes[len..];
                }
            }
            assert!(ended, "{size}");
            assert_eq!(
                (&data[..], &trailers[..]),
                (&b"abcde"[..], &b"X-Sum: 1\r\nY: 2\r\n\r\n"[..]),
                "{size}"
            );
        }
        assert!(matches!(Chunks::new().next_part(b"3\rabc"), ChunkPart::Broken));
    }

    #[test]
    fn sizes_that_servers_may_read_differently_are_refused() {
        assert!(matches!(Chunks::new().follow(b"7FFFFFFFFFFFFFFF\r\n"), ChunksRead::All));
        for size in ["8000000000000000", "FFFFFFFFFFFFFFFF", "10000000000000000", "00000000000000000"] {
            assert!(matches!(Chunks::new().follow(size.as_bytes()), ChunksRead::Broken(_)), "{size}");
        }
    }
}
