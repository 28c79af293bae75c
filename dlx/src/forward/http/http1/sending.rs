//! A request on its way to a resource: its head, and its body as it comes.

use std::{
    cell::RefCell,
    io::{self, Write as _},
    pin::Pin,
    task::{Context, Poll, ready},
};

use daemon::settings::ForwardedHeaders;
use http::{HeaderValue, Request, Version, header};
use hyper::body::{Body as _, Frame};
use tokio::net::TcpStream;

use super::super::{RequestBody, headers};
use crate::identify::chunks::may_be_trailer;

/// How much of a body is taken before it is written.
const MAX_AHEAD: usize = 64 * 1024;
/// A thread keeps no more memory than this for the next request.
const MAX_KEPT: usize = 2 * MAX_AHEAD;

thread_local! {
    /// The thread's buffer for writing. A request owns it only while it has something to write.
    static MEMORY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A request that is being sent.
#[derive(Debug)]
pub(super) struct Sending {
    /// Taken and not written yet, from `written` on. Has no capacity while it is empty.
    out: Vec<u8>,
    written: usize,
    body: RequestBody,
    /// How the rest of its body is framed; `None`: all of it was taken.
    rest: Option<Rest>,
    /// The resource takes no more of it.
    untaken: bool,
    /// What it does not take is read and discarded, for an answer that is on its way.
    discards: bool,
    /// No byte was written, and nothing of the body was read.
    unsent: bool,
}

/// The framing of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// So many bytes are left.
    Length(u64),
    Chunks,
}

// === impl Sending ===

impl Sending {
    /// Takes the body of the request; `client` says how the fields about it are forwarded, and its address.
    pub(super) fn new(request: &mut Request<RequestBody>, client: (ForwardedHeaders, &HeaderValue)) -> Self {
        let mut out = MEMORY.take();
        let rest = write_head(request, client, &mut out);
        let body = std::mem::replace(request.body_mut(), RequestBody::Empty);
        Self { out, written: 0, body, unsent: true, rest, untaken: false, discards: true }
    }

    /// Whether nothing was sent, and nothing can be.
    pub(super) fn has_failed_unsent(&self) -> bool {
        self.unsent && self.untaken
    }

    /// Whether the resource takes no more of it.
    pub(super) fn is_untaken(&self) -> bool {
        self.untaken
    }

    /// The answer has begun: a resource that takes no more of the request ends it.
    pub(super) fn stop_when_untaken(&mut self) {
        self.discards = false;
    }

    /// Sends what can be sent; ready when all of it was, or as much as the resource takes.
    ///
    /// # Errors
    ///
    /// Its client broke off the body: why.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<Result<(), String>> {
        loop {
            let waits = self.poll_body(cx)?.is_pending();
            while self.written < self.out.len() {
                if self.untaken {
                    break;
                }
                match ready!(poll_write(cx, to, &self.out[self.written..])) {
                    Ok(len) => {
                        self.written += len;
                        self.unsent = false;
                    }
                    // Its answer may have come before.
                    Err(_) => self.untaken = true,
                }
            }
            self.return_memory();
            if self.rest.is_none() || self.untaken && !self.discards {
                return Poll::Ready(Ok(()));
            }
            if waits {
                return Poll::Pending;
            }
        }
    }

    /// Returns the memory to the thread: nothing is to be written.
    fn return_memory(&mut self) {
        self.written = 0;
        let mut memory = std::mem::take(&mut self.out);
        memory.clear();
        if (1..=MAX_KEPT).contains(&memory.capacity()) {
            // An error: the thread ends.
            let _ = MEMORY.try_with(|own| own.replace(memory));
        }
    }

    /// Takes what there is of the body, up to a limit. Pending: more will come.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), String>> {
        while let Some(rest) = self.rest
            && self.out.len() < MAX_AHEAD
        {
            self.unsent = false;
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => Some(frame),
                Some(Err(error)) => return Poll::Ready(Err(error.to_string())),
                None => None,
            };
            let ended = frame.is_none() || self.body.is_end_stream();
            self.rest = self.take(rest, frame, ended)?;
            if self.rest.is_none() {
                self.body = RequestBody::Empty;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes a part of the body. What is left of it, if anything.
    fn take(
        &mut self,
        rest: Rest,
        frame: Option<Frame<bytes::Bytes>>,
        ended: bool,
    ) -> Result<Option<Rest>, String> {
        let (data, trailers) = match frame.map(Frame::into_data) {
            Some(Ok(data)) => (data, None),
            Some(Err(frame)) => (bytes::Bytes::new(), frame.into_trailers().ok()),
            None => (bytes::Bytes::new(), None),
        };
        if self.out.capacity() == 0 {
            self.out = MEMORY.take();
        }
        match rest {
            Rest::Length(left) => {
                let left =
                    left.checked_sub(data.len() as u64).ok_or("it is longer than its Content-Length")?;
                self.out.extend_from_slice(&data);
                match left {
                    0 => Ok(None),
                    _ if ended => Err("it is shorter than its Content-Length".to_owned()),
                    left => Ok(Some(Rest::Length(left))),
                }
            }
            Rest::Chunks => {
                if !data.is_empty() {
                    // Writing to memory does not fail.
                    let _ = write!(self.out, "{:x}\r\n", data.len());
                    self.out.extend_from_slice(&data);
                    self.out.extend_from_slice(b"\r\n");
                }
                if !ended && trailers.is_none() {
                    return Ok(Some(Rest::Chunks));
                }
                self.out.extend_from_slice(b"0\r\n");
                let mut trailers = trailers.unwrap_or_default();
                for name in trailers.keys().cloned().collect::<Vec<_>>() {
                    if !may_be_trailer(name.as_str()) {
                        trailers.remove(name);
                    }
                }
                for (name, value) in &trailers {
                    headers::write_field(&mut self.out, name.as_str(), value.as_bytes());
                }
                self.out.extend_from_slice(b"\r\n");
                Ok(None)
            }
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.return_memory();
    }
}

/// Writes the head, and says how the body is framed; `None`: it has none.
fn write_head(
    request: &Request<RequestBody>,
    (how, peer): (ForwardedHeaders, &HeaderValue),
    out: &mut Vec<u8>,
) -> Option<Rest> {
    let version: &[u8] = if request.version() == Version::HTTP_10 { b"1.0" } else { b"1.1" };
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    // `http://a.test?b` has a query and no path.
    let root: &[u8] = if target.starts_with('?') { b"/" } else { b"" };
    let method = request.method().as_str().as_bytes();
    for part in [method, b" ", root, target.as_bytes(), b" HTTP/", version, b"\r\n"] {
        out.extend_from_slice(part);
    }
    // An authority takes precedence over a Host header.
    let authority = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    if let Some(authority) = authority {
        headers::write_field(out, "host", authority);
    }
    let fields = || {
        let fields = request.headers().iter();
        let fields = fields.filter(|(name, _)| authority.is_none() || **name != header::HOST);
        fields.map(|(name, value)| (name.as_str(), value.as_bytes()))
    };
    let host = authority.or_else(|| request.headers().get(header::HOST).map(HeaderValue::as_bytes));
    headers::write_fields(out, fields, host, (how, peer.as_bytes()));
    let rest = if request.body().is_end_stream() {
        None
    } else if let Some(length) = request.body().size_hint().exact() {
        if !request.headers().contains_key(header::CONTENT_LENGTH) {
            // Writing to memory does not fail.
            let _ = write!(out, "content-length: {length}\r\n");
        }
        (length > 0).then_some(Rest::Length(length))
    } else {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
        Some(Rest::Chunks)
    };
    out.extend_from_slice(b"\r\n");
    rest
}

fn poll_write(cx: &mut Context<'_>, to: &TcpStream, bytes: &[u8]) -> Poll<io::Result<usize>> {
    loop {
        ready!(to.poll_write_ready(cx))?;
        match to.try_write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            written => return Poll::Ready(written),
        }
    }
}
