//! Finds where requests begin and end in the bytes of an HTTP/1 connection.

use crate::{
    answer::ErrorResponse,
    identify::{
        chunks::{Chunks, ChunksRead},
        head::{Head, HeadFields, Length},
    },
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
    /// The next byte is invalid in a chunk.
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
                    ChunksRead::All => return (bytes.len(), Stop::End),
                    ChunksRead::End(here) => {
                        passed += here;
                        self.ended();
                    }
                    ChunksRead::Broken(here) => return (passed + here - 1, Stop::Broken),
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
