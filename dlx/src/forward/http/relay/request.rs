//! Decides whether a request is plain, and writes its head for the resource.

use super::{super::headers, body::Body};
use crate::{
    admit::static_answer,
    fault::{SeededFault, is_seeded},
    identify::{
        Origin,
        head::{Head, Length, is_plain},
    },
    state::ResourceHandle,
};
use daemon::settings::ForwardedHeaders;

/// The longest head of a plain request.
pub(super) const MAX_HEAD_BYTES: usize = 16 * 1024;
/// The most fields of a plain request.
const MAX_FIELDS: usize = 64;

/// A request that is relayed as it is, but for the fields that a proxy must change.
#[derive(Debug)]
pub(super) struct PlainRequest<'h, 'b> {
    head: &'h Head<'h, 'b>,
    /// Its host.
    pub(super) host: &'b str,
    /// Whether its client closes the connection after the answer.
    pub(super) close: bool,
}

// === impl PlainRequest ===

impl<'h, 'b> PlainRequest<'h, 'b> {
    /// The request, if nothing about it is ambiguous or rare. `bytes` begin with its head.
    pub(super) fn new(head: &'h Head<'h, 'b>, bytes: &[u8]) -> Option<Self> {
        let host = head.host?;
        let plain = head.is_http11
            && !head.switches
            && head.len <= MAX_HEAD_BYTES
            && head.fields.len() <= MAX_FIELDS
            && head.target.starts_with('/')
            && head.target.bytes().all(is_plain)
            && has_whole_lines(&bytes[..head.len]);
        let (mut close, mut connections, mut lengths) = (false, 0, 0);
        for field in head.fields {
            // Compared by their lengths first: most fields are none of these.
            match field.name.len() {
                2 if field.name.eq_ignore_ascii_case("te") => return None,
                6 if field.name.eq_ignore_ascii_case("expect") => return None,
                7 if field.name.eq_ignore_ascii_case("upgrade") => return None,
                10 if field.name.eq_ignore_ascii_case("connection") => {
                    connections += 1;
                    close = field.value.eq_ignore_ascii_case(b"close");
                    if !close && !field.value.eq_ignore_ascii_case(b"keep-alive") {
                        return None;
                    }
                }
                14 if field.name.eq_ignore_ascii_case("content-length") => lengths += 1,
                // Some servers know it in lower case alone.
                17 if field.name.eq_ignore_ascii_case("transfer-encoding") && field.value != b"chunked" => {
                    return None;
                }
                _ => {}
            }
        }
        (plain && connections < 2 && lengths < 2).then_some(Self { head, host, close })
    }

    /// Whether a static response of the resource matches it, or it passed the resource's address before.
    pub(super) fn is_special(&self, resource: &ResourceHandle) -> bool {
        let path = self.head.target.split('?').next().unwrap_or_default();
        let settings = &resource.snapshot.load().settings;
        !settings.static_responses.is_empty()
            && static_answer(settings, self.head.field("user-agent"), path).is_some()
            || self.head.field("via").is_some_and(|_| {
                let hops = self.head.fields.iter().filter(|field| field.name.eq_ignore_ascii_case("via"));
                hops.map(|field| headers::count_marks(field.value, resource.mark.as_bytes())).sum::<usize>()
                    > 0
            })
    }

    /// Whether it has a field of this name, which is in lower case.
    pub(super) fn has(&self, name: &str) -> bool {
        self.head.field(name).is_some()
    }

    /// Its body; `None` if it has none.
    pub(super) fn body(&self) -> Option<Body> {
        match self.head.body {
            Length::Known(length @ 1..) if is_seeded(SeededFault::ShortBody) => Body::of_length(length - 1),
            Length::Known(length) => Body::of_length(length),
            Length::Chunked => Some(Body::chunked()),
        }
    }

    /// Whether it may be sent again although the resource may have seen it.
    pub(super) fn is_safe(&self) -> bool {
        matches!(self.head.method, "GET" | "HEAD" | "OPTIONS") && self.head.body == Length::Known(0)
    }

    /// Whether its answer has no body.
    pub(super) fn is_head(&self) -> bool {
        self.head.method == "HEAD"
    }

    /// Writes its head as it is sent to the resource. `mark` is added to `Via`.
    pub(super) fn write(
        &self,
        out: &mut Vec<u8>,
        origin: &Origin,
        how: ForwardedHeaders,
        mark: Option<&[u8]>,
    ) {
        let line = [self.head.method.as_bytes(), b" ", self.head.target.as_bytes(), b" HTTP/1.1\r\n"];
        line.into_iter().for_each(|part| out.extend_from_slice(part));
        let fields = || {
            let fields = self.head.fields.iter().filter(|field| !headers::is_hop_by_hop(field.name));
            fields.map(|field| (field.name, field.value))
        };
        headers::write_fields(out, fields, Some(self.host.as_bytes()), (how, origin.peer.as_bytes()));
        if let Some(mark) = mark {
            headers::write_field(out, "Via", mark);
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Whether each line of a head ends with CR LF, and none is empty but the last.
fn has_whole_lines(head: &[u8]) -> bool {
    is_seeded(SeededFault::BareLf)
        || !head.starts_with(b"\r")
            && memchr::memchr_iter(b'\n', head).all(|at| at > 0 && head[at - 1] == b'\r')
}
