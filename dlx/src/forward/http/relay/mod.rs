//! Relays plain HTTP/1.1 exchanges as bytes: one read and one write on each side, no allocation per request, no task but the
//! connection's own.
//!
//! A request is plain if nothing about it is ambiguous or rare. Anything else is handed over to the HTTP library with the
//! bytes that were read, before a byte of it was sent: from then on the library serves the connection.

mod answer;
mod body;
mod buffer;
mod exchange;
mod request;

use std::{pin::pin, sync::Arc};

use body::Body;
use buffer::{Buffer, Scratch};
use exchange::{Download, Exchange, Failure, Upload, fill, left, until};
use http::StatusCode;
use request::{MAX_HEAD_BYTES, PlainRequest};
use scaler_types::AddressOf;
use tokio::{io::AsyncWriteExt, time::Instant};

use super::{
    ConnectionContext, ParkedRequest,
    dial::UpstreamError,
    forward::{PERMIT_TIMEOUT, choose, forwarded_headers},
    pool::PooledConnection,
};
use crate::{
    admit::{Admission, Admitted, head_weight},
    answer::ErrorResponse,
    client::{Socket, Timed},
    fault::{SeededFault, is_seeded},
    identify::head::{Head, HeadFields, may_end},
    state::{ColdStart, DispatchPermit, EndpointTarget, InFlight, ResourceHandle},
};

/// An idle connection keeps no more memory than this for its next head.
const MAX_KEPT: usize = 4 * 1024;

/// The most that is added to a head. The room in front of a buffer is larger.
const MAX_ADDED: usize = 2 * 1024;

/// How relaying on a connection ended.
#[derive(Debug)]
pub(crate) enum Relayed {
    /// The connection has ended.
    Ended,
    /// The HTTP library serves it from here on. These bytes were read.
    HandedOver(Vec<u8>),
}

/// A client's connection on which plain requests are relayed.
struct Relay<'c> {
    context: &'c ConnectionContext,
    client: &'c mut Timed,
    socket: &'c Socket,
    /// Read and not processed yet.
    received: Vec<u8>,
    /// They are the beginning of a head, and no more.
    is_half_head: bool,
    /// The head of the current request as it came.
    original_head: Vec<u8>,
    /// The request that comes next, if it was seen before.
    held: Option<Held>,
}

/// A request that was held, or found no endpoint.
struct Held {
    admission: Admission,
    /// Whether it was admitted, once that is known.
    outcome: Option<Result<Admitted, Arc<ErrorResponse>>>,
    /// Whether it counts as a request already.
    counted: bool,
    /// Its cold start, if it was dispatched before and found no endpoint.
    cold: Option<ColdStart>,
}

/// A plain request, ready to be sent.
struct Outgoing {
    admitted: Admitted,
    /// If it was held.
    admission: Option<Admission>,
    /// Whether it counts as a request already.
    counted: bool,
    /// Its cold start, if it was dispatched before and found no endpoint.
    cold: Option<ColdStart>,
    target: Arc<EndpointTarget>,
    /// Its head as it is sent, and what came with it of its body.
    bytes: Buffer,
    /// How much of that is the head.
    head_len: usize,
    /// The rest of its body.
    body: Option<Body>,
    safe: bool,
    to_head: bool,
    close: bool,
}

/// A plain request that is not sent.
struct Refused {
    resource: Arc<ResourceHandle>,
    answer: Arc<ErrorResponse>,
    counted: bool,
    to_head: bool,
    close: bool,
    /// Whether its body was read, too.
    fully_read: bool,
}

/// What some bytes are.
enum Next {
    Plain(Outgoing),
    /// A plain request that has to wait, and the bytes to reserve for it.
    Hold(Held, u64),
    Refused(Refused),
    /// The beginning of a head.
    Partial(Buffer),
    /// Something else.
    Other(Buffer),
}

/// Relays plain requests until the connection ends or something else comes.
pub(crate) async fn serve(context: &ConnectionContext, client: &mut Timed, socket: &Socket) -> Relayed {
    let held = context.take_parked().map(|parked| {
        let ParkedRequest { admission, outcome, counted, .. } = parked;
        Held { admission, outcome: Some(outcome), counted, cold: None }
    });
    let mut relay = Relay {
        context,
        client,
        socket,
        received: Vec::new(),
        is_half_head: false,
        original_head: Vec::new(),
        held,
    };
    loop {
        if let Err(relayed) = relay.serve_next().await {
            return relayed;
        }
        relay.free_memory();
    }
}

// === impl Relay ===

impl Relay<'_> {
    /// Serves the next request. An error: relaying ends.
    async fn serve_next(&mut self) -> Result<(), Relayed> {
        let known = self.received.len();
        let buffer = if known > 0 && !self.is_half_head {
            Buffer::with(&self.received)
        } else {
            // An error: its client left, or took too long.
            fill(self.client, &self.received).await.ok().filter(|buffer| !buffer.is_empty())
        };
        let Some(buffer) = buffer else { return Err(Relayed::Ended) };
        self.received.clear();
        let may_be_whole = !self.is_half_head || may_end(&buffer.bytes()[..known], &buffer.bytes()[known..]);
        self.is_half_head = false;
        match if may_be_whole { self.read(buffer) } else { Next::Partial(buffer) } {
            Next::Plain(outgoing) => self.exchange(outgoing).await,
            Next::Hold(held, bytes) => self.hold(held, bytes).await,
            Next::Refused(refused) => self.refuse(refused).await,
            Next::Partial(buffer) if buffer.len() < MAX_HEAD_BYTES => {
                self.received.extend_from_slice(buffer.bytes());
                self.is_half_head = true;
                Ok(())
            }
            Next::Partial(buffer) | Next::Other(buffer) => {
                if let Some(Held { admission, outcome: Some(outcome), counted, .. }) = self.held.take() {
                    self.context.park(ParkedRequest { admission, outcome, counted, sent_before: false });
                }
                Err(Relayed::HandedOver(buffer.bytes().to_vec()))
            }
        }
    }

    /// Reads the request at the beginning of these bytes, and enters its resource's gate if it is plain.
    fn read(&mut self, buffer: Buffer) -> Next {
        let context = self.context;
        let mut room = HeadFields::room();
        let head = match Head::read(buffer.bytes(), &mut room) {
            Ok(Some(head)) => head,
            Ok(None) => return Next::Partial(buffer),
            // The library answers.
            Err(_) => return Next::Other(buffer),
        };
        let Some(request) = PlainRequest::new(&head, buffer.bytes()) else { return Next::Other(buffer) };
        let has = |name: &http::HeaderName| request.has(name.as_str());
        let found = context.identifier.find_by_host(&context.origin, request.host, has);
        let Some(resource) = found.filter(|resource| !request.is_special(resource)) else {
            return Next::Other(buffer);
        };
        let mut body = request.body();
        let after_head = &buffer.bytes()[head.len..];
        let (mut body_len, mut next_len) = (0, 0);
        if let Some(came) = &mut body {
            let Ok(part) = came.follow(after_head) else { return Next::Other(buffer) };
            body_len = part.len;
            if part.ended {
                body = None;
            }
        }
        if body.is_none() {
            next_len = after_head.len() - body_len;
        }
        let (mut admission, mut outcome, mut counted, mut cold) = (None, None, false, None);
        if let Some(held) = self.held.take() {
            cold = held.cold;
            (admission, outcome, counted) = match Arc::ptr_eq(held.admission.resource(), &resource) {
                true => (Some(held.admission), held.outcome, held.counted),
                false => (Some(held.admission.for_resource(resource.clone())), None, held.counted),
            };
        }
        let admitted = match outcome {
            Some(Ok(admitted)) => Some(admitted),
            Some(Err(answer)) => {
                let (to_head, close, fully_read) = (request.is_head(), request.close, body.is_none());
                self.received.extend_from_slice(&after_head[after_head.len() - next_len..]);
                return Next::Refused(Refused { resource, answer, counted, to_head, close, fully_read });
            }
            // Counted first; then the gate is read.
            None => resource.enter().map(|in_flight| Admitted { in_flight, held: None }),
        };
        let target = choose(context, &resource);
        let (Some(admitted), Some(target)) = (admitted, target) else {
            let admission = admission.unwrap_or_else(|| Admission::new(resource.clone()));
            admission.note_cause(|| context.identifier.wake_cause(&context.origin, &head, request.host));
            self.received.extend_from_slice(buffer.bytes());
            let bytes = head_weight(&head).max(buffer.len() as u64);
            return Next::Hold(Held { admission, outcome: None, counted, cold }, bytes);
        };
        let mut scratch = Scratch::take();
        let mark = (target.endpoint.address_of == AddressOf::Service).then(|| resource.mark.as_bytes());
        request.write(&mut scratch.0, &context.origin, forwarded_headers(context, &resource), mark);
        if is_seeded(SeededFault::BareLf)
            && memchr::memmem::find(&buffer.bytes()[..head.len], b"\r\n").is_none()
        {
            scratch.0 = buffer.bytes()[..head.len].to_vec();
        }
        if scratch.0.len() > head.len + MAX_ADDED {
            return Next::Other(buffer);
        }
        let (safe, to_head, close, len) = (request.is_safe(), request.is_head(), request.close, head.len);
        self.original_head.clear();
        self.original_head.extend_from_slice(&buffer.bytes()[..len]);
        self.received.extend_from_slice(&after_head[after_head.len() - next_len..]);
        let mut bytes = buffer;
        bytes.advance(len);
        bytes.truncate(body_len);
        bytes.put_front(&scratch.0);
        let head_len = scratch.0.len();
        Next::Plain(Outgoing {
            admitted,
            admission,
            counted,
            cold,
            target,
            bytes,
            head_len,
            body,
            safe,
            to_head,
            close,
        })
    }

    /// Holds a request, whose bytes are in `received`, until it may be sent or is refused.
    async fn hold(&mut self, mut held: Held, bytes: u64) -> Result<(), Relayed> {
        let _busy = self.context.progress.begin();
        if !std::mem::replace(&mut held.counted, true) {
            held.admission.resource().counts.arrived();
        }
        self.received.shrink_to_fit();
        let outcome = tokio::select! {
            outcome = held.admission.wait(bytes) => outcome,
            () = self.socket.closed() => {
                // Counted like the 503 of a client that left, although it is not sent.
                held.admission.resource().counts.answered(StatusCode::SERVICE_UNAVAILABLE);
                return Err(Relayed::Ended);
            }
        };
        self.held = Some(Held { outcome: Some(outcome), ..held });
        Ok(())
    }

    /// Answers a request that was held and refused.
    async fn refuse(&mut self, refused: Refused) -> Result<(), Relayed> {
        let Refused { resource, answer, counted, to_head, close, fully_read } = refused;
        let _busy = self.context.progress.begin();
        if !counted {
            resource.counts.arrived();
        }
        resource.counts.answered(answer.status);
        self.answer(&answer, to_head, close, fully_read).await
    }

    /// Sends a request and passes its answer on. An error: relaying ends.
    async fn exchange(&mut self, outgoing: Outgoing) -> Result<(), Relayed> {
        let context = self.context;
        let Outgoing {
            admitted,
            admission,
            counted,
            cold,
            target,
            bytes,
            head_len,
            body,
            safe,
            to_head,
            close,
        } = outgoing;
        let _busy = context.progress.begin();
        let Admitted { mut in_flight, held } = admitted;
        in_flight.set_endpoint(&target);
        let (mut permit, cold) = match held {
            Some((permit, cold)) => (Some(permit), Some(cold)),
            None => (None, cold),
        };
        if !counted {
            in_flight.resource().counts.arrived();
        }
        let mut admission = admission;
        let (connection, bytes) = match context.pool.take_idle(&target, safe) {
            Some(connection) => (connection, bytes),
            None => {
                // While the connection is made, the request takes no more memory than its size.
                let unsent = bytes.bytes().to_vec();
                drop(bytes);
                let since = admission.take().unwrap_or_else(|| Admission::new(in_flight.resource().clone()));
                match Box::pin(self.dial(&target, &mut permit)).await {
                    None => return Err(Relayed::Ended),
                    Some(Err(error)) => {
                        let resource = in_flight.resource();
                        tracing::debug!(resource = %resource.key.id, reason = %error, "failed to connect for a request; choosing an endpoint again");
                        resource.mark_unreachable(&target, error.to_string());
                        return self.send_again(since, in_flight, &target, &unsent[head_len..], cold);
                    }
                    Some(Ok(connection)) => {
                        admission = Some(since);
                        (connection, Buffer::with(&unsent).ok_or(Relayed::Ended)?)
                    }
                }
            }
        };
        let may_be_sent_again = safe && connection.reused;
        let mut exchange = Exchange {
            context,
            client: self.client,
            socket: self.socket,
            received: &mut self.received,
            connection,
            in_flight,
            permit,
            cold,
            may_be_sent_again,
            sent: Instant::now(),
            up: Upload::new(bytes, body),
            down: Download::default(),
            to_head,
            close,
        };
        match exchange.run().await {
            Ok(()) => match exchange.finish() {
                true => Ok(()),
                false => Err(Relayed::Ended),
            },
            Err(Failure::Crossed) => {
                let Exchange { connection, in_flight, .. } = exchange;
                connection.note_closed();
                let admission = admission.unwrap_or_else(|| Admission::new(in_flight.resource().clone()));
                let outcome = Ok(Admitted { in_flight, held: None });
                context.park(ParkedRequest { admission, outcome, counted: true, sent_before: true });
                Err(Relayed::HandedOver(self.unsent(b"")))
            }
            Err(failure) => {
                let (answer, fully_read) = exchange.fail(failure);
                match answer {
                    Some(answer) => self.answer(&answer, to_head, close, fully_read).await,
                    None => {
                        if !fully_read {
                            self.socket.note_more();
                        }
                        Err(Relayed::Ended)
                    }
                }
            }
        }
    }

    /// A new connection to the resource. `None`: the client left.
    async fn dial(
        &self,
        target: &EndpointTarget,
        permit: &mut Option<DispatchPermit>,
    ) -> Option<Result<PooledConnection, UpstreamError>> {
        let freed = Instant::now() + PERMIT_TIMEOUT;
        let mut dialled = pin!(self.context.pool.dial(target));
        let mut left = pin!(left(self.socket, !self.received.is_empty()));
        loop {
            tokio::select! {
                dialled = &mut dialled => return Some(dialled),
                () = &mut left => return None,
                () = until(permit.is_some().then_some(freed)) => *permit = None,
            }
        }
    }

    /// Answers a request that has no answer of its resource. `fully_read`: its body, too.
    async fn answer(
        &mut self,
        answer: &ErrorResponse,
        to_head: bool,
        close: bool,
        fully_read: bool,
    ) -> Result<(), Relayed> {
        let close = close || answer.close || !fully_read || self.context.draining.is_cancelled();
        let bytes = ErrorResponse { close, ..answer.clone() }.to_bytes(to_head);
        self.context.progress.mark_answered();
        let written = self.client.write_all(&bytes).await;
        if !fully_read {
            self.socket.note_more();
        }
        if close || written.is_err() { Err(Relayed::Ended) } else { Ok(()) }
    }

    /// Has a request, of which nothing was sent, sent to another endpoint or held.
    fn send_again(
        &mut self,
        admission: Admission,
        in_flight: InFlight,
        target: &EndpointTarget,
        body: &[u8],
        cold: Option<ColdStart>,
    ) -> Result<(), Relayed> {
        let unsent = self.unsent(body);
        if target.is_other_port() || admission.is_over() {
            // The library knows when to try that port again, and when to give up.
            let outcome = Ok(Admitted { in_flight, held: None });
            self.context.park(ParkedRequest { admission, outcome, counted: true, sent_before: false });
            return Err(Relayed::HandedOver(unsent));
        }
        self.received = unsent;
        self.held = Some(Held { admission, outcome: None, counted: true, cold });
        Ok(())
    }

    /// The current request, and what follows it.
    fn unsent(&self, body: &[u8]) -> Vec<u8> {
        [&self.original_head, body, &self.received].concat()
    }

    /// Frees what an idle connection does not need.
    fn free_memory(&mut self) {
        self.original_head.clear();
        for memory in [&mut self.original_head, &mut self.received] {
            if memory.capacity() > MAX_KEPT {
                memory.shrink_to(MAX_KEPT);
            }
        }
    }
}
