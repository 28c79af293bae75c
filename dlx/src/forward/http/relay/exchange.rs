//! One request and its answer, as bytes: the request's body on its way to the resource, the answer on its way to the client,
//! each as far as it can go.

use std::{
    future::{pending, poll_fn},
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::StatusCode;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, sleep_until},
};

use super::{
    super::{
        ConnectionContext,
        answer_framing::{LONG_HEAD, MAX_HEAD_BYTES, MAX_INFORMATIONAL, TOO_MANY_INFORMATIONAL},
        dial::UpstreamError,
        forward::{PERMIT_TIMEOUT, first_byte},
        pool::PooledConnection,
        resend,
        upstream::is_closed,
    },
    answer::AnswerHead,
    body::{Body, BrokenChunk, Part},
    buffer::{Buffer, Scratch},
};
use crate::{
    answer::ErrorResponse,
    client::{Socket, Timed},
    fault::{SeededFault, is_seeded},
    identify::head::may_end,
    state::{ColdStart, DispatchPermit, InFlight},
};

/// A request that was sent, or is being sent.
#[derive(Debug)]
pub(super) struct Exchange<'c> {
    pub(super) context: &'c ConnectionContext,
    pub(super) client: &'c mut Timed,
    pub(super) socket: &'c Socket,
    /// Bytes of the client that follow the request.
    pub(super) received: &'c mut Vec<u8>,
    pub(super) connection: PooledConnection,
    pub(super) in_flight: InFlight,
    /// If it was held: its permit, until it is freed,
    pub(super) permit: Option<DispatchPermit>,
    /// and its cold start.
    pub(super) cold: Option<ColdStart>,
    /// Whether the request may be sent again if the connection, which is reused, closes before a byte of its answer.
    pub(super) may_be_sent_again: bool,
    /// When the request was sent.
    pub(super) sent: Instant,
    pub(super) up: Upload,
    pub(super) down: Download,
    /// Whether the request was a HEAD.
    pub(super) to_head: bool,
    /// Whether the client's connection is closed after the answer.
    pub(super) close: bool,
}

/// The request on its way to the resource.
#[derive(Debug)]
pub(super) struct Upload {
    /// Read and not written yet.
    out: Option<Buffer>,
    /// The body that is still to come.
    body: Option<Body>,
    /// The resource takes no more of it: the rest is read and discarded, for an answer that came before.
    untaken: bool,
    /// The request was sent to its end.
    done: bool,
}

/// The answer on its way to the client.
#[derive(Debug, Default)]
pub(super) struct Download {
    /// Read and not written yet.
    out: Option<Buffer>,
    /// Read and not understood yet: the beginning of a head.
    head: Option<Buffer>,
    /// It may be a whole one.
    head_may_end: bool,
    /// How many heads of status 1xx were passed on.
    informational: usize,
    stage: Stage,
    /// A byte of the answer came.
    began: bool,
    /// The resource keeps the connection.
    keeps: bool,
    /// The next bytes are no chunk. The client's connection is closed without an end of the body.
    broken: bool,
}

/// The part of an answer that comes next.
#[derive(Debug, Default)]
enum Stage {
    #[default]
    Head,
    Body(Body),
    /// The answer was read to its end.
    End,
}

/// Why an exchange ended before its answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The client left, or takes nothing of the answer.
    ClientLeft,
    /// The client sends nothing more of the body.
    Stalled,
    /// The body is malformed.
    BadBody,
    /// The resource failed, and may have seen the request.
    Upstream(UpstreamError),
    /// The reused connection was closed right after the request was sent, before a byte of the answer came.
    Crossed,
}

/// How far an exchange has come.
enum Progress {
    /// The request was sent.
    Sent,
    /// The answer has ended, and the request not yet.
    Answered,
    /// Both have ended.
    Ended,
}

// === impl Upload ===

impl Upload {
    /// `begin` is the head and what came with it of the body; `body` is the part that is still to come.
    pub(super) fn new(begin: Buffer, body: Option<Body>) -> Self {
        Self { out: Some(begin), body, untaken: false, done: false }
    }
}

// === impl Exchange ===

impl Exchange<'_> {
    /// Goes on to the end of both.
    ///
    /// # Errors
    ///
    /// It ended before.
    pub(super) async fn run(&mut self) -> Result<(), Failure> {
        let stall = self.context.progress.timeouts().stall;
        let mut answered = None;
        loop {
            let (sent, socket, more) = (self.up.done, self.socket, !self.received.is_empty());
            // While a body comes, its end is seen by reading.
            let left = async { if sent { left(socket, more).await } else { pending().await } };
            let permit = self.permit.is_some().then(|| self.sent + PERMIT_TIMEOUT);
            let progress = tokio::select! {
                biased;
                progress = poll_fn(|cx| self.poll(cx)) => progress?,
                () = left => return Err(Failure::ClientLeft),
                () = until(permit) => {
                    self.permit = None;
                    continue;
                }
                () = until(answered) => {
                    tracing::debug!(resource = %self.in_flight.resource().key.id, "closed a connection: the request's body stalled after the response");
                    return Err(Failure::ClientLeft);
                }
            };
            match progress {
                Progress::Ended => return Ok(()),
                Progress::Sent => {}
                Progress::Answered => answered = Some(Instant::now() + stall),
            }
        }
    }

    /// Returns the connection to the pool if another request can follow on it. Whether another request of the client can
    /// follow.
    pub(super) fn finish(self) -> bool {
        let complete = matches!(self.down.stage, Stage::End) && !self.up.untaken;
        if complete && self.down.keeps {
            self.connection.return_to_pool(self.in_flight.resource());
        }
        !self.close
    }

    /// The answer to a request that failed, if the client can still be answered; and whether the whole request was read.
    pub(super) fn fail(self, failure: Failure) -> (Option<ErrorResponse>, bool) {
        let resource = self.in_flight.resource();
        let id = &resource.key.id;
        let answer = match failure {
            Failure::ClientLeft => None,
            Failure::Stalled => Some(ErrorResponse::stalled(id, self.context.progress.timeouts().stall)),
            Failure::BadBody => Some(ErrorResponse::malformed("its body ended with an error: invalid chunk")),
            Failure::Upstream(error) => Some(ErrorResponse::upstream_error(id, error)),
            Failure::Crossed => Some(ErrorResponse::upstream_error(id, UpstreamError::Incomplete)),
        };
        let unanswered = matches!(self.down.stage, Stage::Head) && self.down.out.is_none();
        let answer = answer.filter(|_| unanswered);
        if let Some(answer) = &answer
            && answer.status != StatusCode::BAD_REQUEST
        {
            resource.counts.answered(answer.status);
        }
        (answer, self.up.body.is_none())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Progress, Failure>> {
        let before = self.up.done;
        let mut moved = false;
        if !before && let Poll::Ready(sent) = self.poll_up(cx, &mut moved) {
            sent?;
            self.up.done = true;
            self.context.progress.set_awaiting_body(false);
        }
        let was_answered = self.is_answered();
        if !was_answered && let Poll::Ready(answered) = self.poll_down(cx) {
            answered?;
        }
        Poll::Ready(Ok(match (self.is_answered(), self.up.done) {
            (true, true) => Progress::Ended,
            // The resource takes nothing of the rest of the body.
            (true, false) if self.up.untaken || !self.down.keeps => {
                self.close = true;
                self.socket.note_more();
                Progress::Ended
            }
            // Each byte of the body restarts the time to the next.
            (true, false) if !was_answered || moved => Progress::Answered,
            (false, true) if !before => Progress::Sent,
            _ => return Poll::Pending,
        }))
    }

    fn is_answered(&self) -> bool {
        matches!(self.down.stage, Stage::End) && self.down.out.is_none()
    }

    /// Sends the request on; ready when all of it is sent.
    fn poll_up(&mut self, cx: &mut Context<'_>, moved: &mut bool) -> Poll<Result<(), Failure>> {
        loop {
            if let Some(out) = &mut self.up.out {
                match ready!(Pin::new(&mut self.connection.stream).poll_write(cx, out.bytes())) {
                    Ok(len) => {
                        *moved = true;
                        out.advance(len);
                    }
                    // Its answer may have come before.
                    Err(_) => {
                        self.up.untaken = true;
                        out.truncate(0);
                    }
                }
                if out.is_empty() {
                    self.up.out = None;
                }
                continue;
            }
            let Some(body) = &mut self.up.body else { return Poll::Ready(Ok(())) };
            let mut buffer = Buffer::take();
            let progress = &self.context.progress;
            progress.set_awaiting_body(true);
            match ready!(poll_fill(Pin::new(&mut *self.client), cx, &mut buffer)) {
                Ok(0) => return Poll::Ready(Err(Failure::ClientLeft)),
                Ok(_) => progress.set_awaiting_body(false),
                Err(_) if progress.body_stalled() => return Poll::Ready(Err(Failure::Stalled)),
                Err(_) => return Poll::Ready(Err(Failure::ClientLeft)),
            }
            let Ok(part) = body.follow(buffer.bytes()) else { return Poll::Ready(Err(Failure::BadBody)) };
            if part.ended {
                self.up.body = None;
                self.received.extend_from_slice(&buffer.bytes()[part.len..]);
            }
            buffer.truncate(part.len);
            *moved = true;
            if !self.up.untaken {
                self.up.out = Some(buffer);
            }
        }
    }

    /// Passes the answer on; ready when all of it was passed on.
    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        loop {
            if let Some(out) = &mut self.down.out {
                let Ok(len) = ready!(Pin::new(&mut *self.client).poll_write(cx, out.bytes())) else {
                    return Poll::Ready(Err(Failure::ClientLeft));
                };
                out.advance(len);
                if out.is_empty() {
                    self.down.out = None;
                }
                continue;
            }
            if matches!(self.down.stage, Stage::End) {
                return Poll::Ready(Ok(()));
            }
            if self.down.broken {
                return Poll::Ready(Err(Failure::Upstream(UpstreamError::BrokenChunk)));
            }
            let mut buffer = match self.down.head.take() {
                Some(buffer) if std::mem::take(&mut self.down.head_may_end) => {
                    match self.read_head(buffer)? {
                        Some(buffer) => buffer,
                        None => continue,
                    }
                }
                Some(buffer) => buffer,
                None => Buffer::take(),
            };
            if buffer.len() >= MAX_HEAD_BYTES {
                return Poll::Ready(Err(Failure::Upstream(LONG_HEAD)));
            }
            if buffer.room().is_empty() {
                buffer.grow();
            }
            let known = buffer.len();
            match poll_fill(Pin::new(&mut self.connection.stream), cx, &mut buffer) {
                Poll::Pending => {
                    self.down.head = (!buffer.is_empty()).then_some(buffer);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(1..)) => self.down.began = true,
                Poll::Ready(end) => {
                    self.ended(end.err())?;
                    continue;
                }
            }
            match &mut self.down.stage {
                Stage::Head => {
                    let (before, new) = buffer.bytes().split_at(known);
                    self.down.head_may_end = known == 0 || may_end(before, new);
                    self.down.head = Some(buffer);
                }
                Stage::Body(_) => self.pass_on(buffer, b"")?,
                Stage::End => {}
            }
        }
    }

    /// Reads the head that the buffer begins with. The buffer again: the head does not end in it.
    fn read_head(&mut self, mut buffer: Buffer) -> Result<Option<Buffer>, Failure> {
        let mut scratch = Scratch::take();
        let (close, sent, untaken) = (&mut self.close, self.up.done, self.up.untaken);
        let (permit, cold, resource) = (&mut self.permit, &mut self.cold, self.in_flight.resource());
        let add = |keeps: bool, out: &mut Vec<u8>| {
            *close |= self.context.draining.is_cancelled() || untaken || !sent && !keeps;
            if *close {
                out.extend_from_slice(b"Connection: close\r\n");
            }
            *permit = None;
            if let Some(cold) = cold.take() {
                let timing = format!("server-timing: {}\r\n", first_byte(resource, cold));
                out.extend_from_slice(timing.as_bytes());
            }
        };
        let head = AnswerHead::read(buffer.bytes(), self.to_head, add, &mut scratch.0);
        let Some(head) = head.map_err(Failure::Upstream)? else {
            return Ok(Some(buffer));
        };
        buffer.advance(head.len);
        if head.is_informational() {
            let Some(out) = Buffer::with(&scratch.0) else { return Err(Failure::Upstream(LONG_HEAD)) };
            self.down.informational += 1;
            if self.down.informational > MAX_INFORMATIONAL {
                return Err(Failure::Upstream(TOO_MANY_INFORMATIONAL));
            }
            self.down.out = Some(out);
            if !buffer.is_empty() {
                // Moved to the front.
                self.down.head = Some(Buffer::with(buffer.bytes()).unwrap_or(buffer));
                self.down.head_may_end = true;
            }
            return Ok(None);
        }
        if let Ok(status) = StatusCode::from_u16(head.status) {
            self.in_flight.resource().counts.answered(status);
        }
        self.context.progress.mark_answered();
        self.down.keeps = head.keeps;
        self.down.stage = head.body.map_or(Stage::End, Stage::Body);
        self.pass_on(buffer, &scratch.0)?;
        Ok(None)
    }

    /// Passes on what these bytes are of the body, after `head`.
    fn pass_on(&mut self, mut buffer: Buffer, head: &[u8]) -> Result<(), Failure> {
        let read = buffer.len();
        if let Stage::Body(body) = &mut self.down.stage {
            let part = match body.follow(buffer.bytes()) {
                Ok(part) => part,
                Err(BrokenChunk { valid }) => {
                    self.down.broken = true;
                    Part { len: valid, ended: false }
                }
            };
            buffer.truncate(part.len);
            if matches!(body, Body::ToTheEnd) && part.len > 0 {
                let fits = buffer.put_front(format!("{:x}\r\n", part.len).as_bytes());
                debug_assert!(fits, "the room in front is larger");
                buffer.put_back(b"\r\n");
            }
            if part.ended {
                self.down.stage = Stage::End;
            }
            self.down.keeps &= part.len == read || is_seeded(SeededFault::Leftovers);
        } else {
            // No body: what follows is no answer to anything.
            self.down.keeps &= read == 0 || is_seeded(SeededFault::Leftovers);
            buffer.truncate(0);
        }
        if !buffer.put_front(head) {
            return Err(Failure::Upstream(LONG_HEAD));
        }
        self.down.out = (!buffer.is_empty()).then_some(buffer);
        Ok(())
    }

    /// The resource has ended the connection.
    fn ended(&mut self, error: Option<io::Error>) -> Result<(), Failure> {
        let closed = error.as_ref().is_none_or(is_closed);
        match &self.down.stage {
            Stage::Body(Body::ToTheEnd) if error.is_none() => {
                self.down.out = Buffer::with(b"0\r\n\r\n");
                self.down.stage = Stage::End;
                Ok(())
            }
            Stage::Head
                if self.may_be_sent_again
                    && !self.down.began
                    && resend::crossed(closed.then(Instant::now), self.sent) =>
            {
                Err(Failure::Crossed)
            }
            _ => Err(Failure::Upstream(match error {
                Some(error) if !closed => UpstreamError::Io(error),
                _ => UpstreamError::Incomplete,
            })),
        }
    }
}

/// Reads into the buffer. Ready with 0: the other end has half-closed the connection.
fn poll_fill(
    from: Pin<&mut impl AsyncRead>,
    cx: &mut Context<'_>,
    buffer: &mut Buffer,
) -> Poll<io::Result<usize>> {
    let mut room = ReadBuf::new(buffer.room());
    ready!(from.poll_read(cx, &mut room))?;
    let len = room.filled().len();
    buffer.filled(len);
    Poll::Ready(Ok(len))
}

/// Reads from the client's connection, which has no buffer while it waits. Empty: it has ended.
pub(super) async fn fill(client: &mut Timed, received: &[u8]) -> io::Result<Buffer> {
    poll_fn(|cx| {
        let mut buffer = Buffer::with(received).ok_or(io::ErrorKind::InvalidData)?;
        let len = ready!(poll_fill(Pin::new(&mut *client), cx, &mut buffer))?;
        if len == 0 {
            buffer.truncate(0);
        }
        Poll::Ready(Ok(buffer))
    })
    .await
}

/// Returns when the client has left. A client that has sent `more` may half-close its side and wait for all answers.
pub(super) async fn left(socket: &Socket, more: bool) {
    if more { socket.gone().await } else { socket.closed().await }
}

/// Returns at the deadline, if there is one.
pub(super) async fn until(deadline: Option<Instant>) {
    match deadline {
        #[expect(clippy::disallowed_methods, reason = "that nothing passed for a while is the event")]
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}
