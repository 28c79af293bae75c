//! Finds where requests begin and end in the bytes of an HTTP/1 connection.

use crate::{
    answer::ErrorResponse,
    identify::head::{Head, HeadFields, Length},
};

/// The position in the bytes of one connection.
#[derive(Debug)]
pub(crate) struct Framing {
    at: At,
    /// The current request asks to switch protocols.
    switches: bool,
}

/// The part of the message that the next byte belongs to.
#[derive(Debug)]
enum At {
    /// A head.
    Head,
    /// A body, with this many bytes left.
    Body(u64),
    /// A body in chunks.
    Chunks(Chunks),
    /// After a request that asks to switch protocols: HTTP or another protocol, as the answer will say.
    Undecided,
    /// Another protocol.
    AsItIs,
}

/// Why the bytes are not read any further.
#[derive(Debug)]
pub(crate) enum Stop {
    /// All were read.
    End,
    /// The rest is an incomplete head.
    HalfHead,
    /// The rest is HTTP or another protocol, as the answer to the request before it will say.
    Undecided,
    /// The rest is no valid head.
    Refused(ErrorResponse),
    /// The last byte is invalid in a chunk.
    Broken,
}

// === impl Framing ===

impl Framing {
    /// At the beginning of a connection.
    pub(crate) fn new() -> Self {
        Self { at: At::Head, switches: false }
    }

    /// Reads these bytes: how many of them belong to valid requests, and why not more.
    pub(crate) fn follow(&mut self, bytes: &[u8]) -> (usize, Stop) {
        let mut passed = 0;
        loop {
            let rest = &bytes[passed..];
            if rest.is_empty() {
                return (passed, Stop::End);
            }
            match &mut self.at {
                At::AsItIs => return (bytes.len(), Stop::End),
                At::Undecided => return (passed, Stop::Undecided),
                At::Head => match Head::read(rest, &mut HeadFields::room()) {
                    Ok(Some(head)) => {
                        passed += head.len;
                        self.switches = head.switches;
                        match head.body {
                            Length::Known(0) => self.ended(),
                            Length::Known(length) => self.at = At::Body(length),
                            Length::Chunked => self.at = At::Chunks(Chunks::new()),
                        }
                    }
                    Ok(None) => return (passed, Stop::HalfHead),
                    Err(refusal) => return (passed, Stop::Refused(refusal)),
                },
                At::Body(left) => {
                    let here = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    passed += here;
                    *left -= here as u64;
                    if *left == 0 {
                        self.ended();
                    }
                }
                At::Chunks(chunks) => match chunks.follow(rest) {
                    Followed::All => return (bytes.len(), Stop::End),
                    Followed::End(here) => {
                        passed += here;
                        self.ended();
                    }
                    Followed::Broken(here) => return (passed + here, Stop::Broken),
                },
            }
        }
    }

    /// Whether the protocol of the next byte is still open.
    pub(crate) fn is_undecided(&self) -> bool {
        matches!(self.at, At::Undecided)
    }

    /// Whether the next byte belongs to a body.
    pub(crate) fn is_in_body(&self) -> bool {
        matches!(self.at, At::Body(_) | At::Chunks(_))
    }

    /// Whether the next byte begins a request.
    #[cfg(test)]
    pub(super) fn is_at_head(&self) -> bool {
        matches!(self.at, At::Head)
    }

    /// Notes whether the request for a protocol switch succeeded.
    pub(crate) fn decide(&mut self, switched: bool) {
        self.at = if switched { At::AsItIs } else { At::Head };
    }

    fn ended(&mut self) {
        self.at = if self.switches { At::Undecided } else { At::Head };
    }
}

/// The position in a chunked body (RFC 9112 7.1), as strict as hyper.
#[derive(Debug)]
struct Chunks {
    next: Next,
    /// How much is left of the chunk.
    left: u64,
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
    Trailer,
    TrailerLf,
    EndLf,
}

enum Followed {
    /// All bytes belong to the body.
    All,
    /// This many do; then the body ends.
    End(usize),
    /// The last of this many is invalid.
    Broken(usize),
}

// === impl Chunks ===

impl Chunks {
    fn new() -> Self {
        Self { next: Next::FirstDigit, left: 0 }
    }

    fn follow(&mut self, bytes: &[u8]) -> Followed {
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
                return Followed::End(at);
            }
            match self.after(*byte) {
                Some(next) => self.next = next,
                None => return Followed::Broken(at),
            }
        }
        Followed::All
    }

    /// The state after this byte; `None`: it is invalid here.
    fn after(&mut self, byte: u8) -> Option<Next> {
        Some(match (self.next, byte) {
            (Next::FirstDigit | Next::Digit, digit) if digit.is_ascii_hexdigit() => {
                let digit = char::from(digit).to_digit(16)?;
                self.left = self.left.checked_mul(16)?.checked_add(digit.into())?;
                Next::Digit
            }
            (Next::Digit | Next::Space, b' ' | b'\t') => Next::Space,
            (Next::Digit | Next::Space, b';') => Next::Extension,
            (Next::Digit | Next::Space | Next::Extension, b'\r') => Next::SizeLf,
            (Next::Extension, b'\n') => return None,
            (Next::Extension, _) => Next::Extension,
            (Next::SizeLf, b'\n') if self.left == 0 => Next::Line,
            (Next::SizeLf, b'\n') => Next::Data,
            (Next::DataCr, b'\r') => Next::DataLf,
            (Next::DataLf, b'\n') => Next::FirstDigit,
            (Next::Line, b'\r') => Next::EndLf,
            (Next::Trailer, b'\r') => Next::TrailerLf,
            (Next::Line | Next::Trailer, _) => Next::Trailer,
            (Next::TrailerLf, b'\n') => Next::Line,
            _ => return None,
        })
    }
}
