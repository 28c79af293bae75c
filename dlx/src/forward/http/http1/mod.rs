//! Requests that the HTTP library read, sent to resources in HTTP/1.1 over the connections of the pool: no task and no channel
//! of their own, unless a request's body goes on after the answer has begun.

mod answer;
mod head;
mod sending;

use std::{future::poll_fn, sync::Arc, task::Poll};

pub(crate) use answer::AnswerBody;
use answer::UploadTask;
use daemon::settings::ForwardedHeaders;
use head::{Framed, HeadReader};
use http::{HeaderValue, Request, Response, response};
use sending::Sending;
use tokio::time::Instant;

use super::{
    RequestBody,
    dial::UpstreamError,
    pool::{Pool, PooledConnection, Unsent},
    resend,
    upstream::{IdleState, is_closed, peek_state},
};
use crate::state::EndpointTarget;

/// Why a request got no answer on a connection.
#[derive(Debug)]
enum Failed {
    /// No byte of it was sent, and nothing of its body was read.
    Unsent(UpstreamError),
    /// The reused connection was closed right after the request was sent, before a byte of the answer came.
    Crossed,
    /// Its client broke off the body: why.
    Client(String),
    /// The resource may have seen it.
    Upstream(UpstreamError),
}

/// Sends a request and waits for the head of its answer. `client` says how the fields about it are forwarded, and its address.
pub(crate) async fn send(
    pool: &Arc<Pool>,
    target: &EndpointTarget,
    request: &mut Request<RequestBody>,
    client: (ForwardedHeaders, &HeaderValue),
) -> Result<Response<AnswerBody>, Unsent> {
    loop {
        let (safe, second) = (resend::is_safe(request), resend::is_second(request));
        // A request that is sent again takes a new connection.
        let kept = if second { None } else { pool.take_idle(target, safe) };
        let mut connection = match kept {
            Some(connection) => connection,
            None => match Box::pin(pool.dial(target)).await {
                // What stands in front of a resource that is not up may accept connections, and close them.
                Ok(connection) if peek_state(&connection.stream) == IdleState::Closed => {
                    return Err(Unsent::Never(UpstreamError::Incomplete));
                }
                Ok(connection) => connection,
                Err(error) => return Err(Unsent::Never(error)),
            },
        };
        let failed = match exchange(&mut connection, request, client, safe).await {
            Ok(begun) => {
                pool.count_second(second);
                return Ok(answer(connection, begun));
            }
            Err(failed) => failed,
        };
        match failed {
            // The idle connection was closed: the next, or a new one.
            Failed::Unsent(_) if connection.reused => {}
            Failed::Unsent(error) => return Err(Unsent::Never(error)),
            Failed::Crossed => {
                connection.note_closed();
                resend::mark_second(request);
            }
            Failed::Client(reason) => return Err(Unsent::Client(reason)),
            Failed::Upstream(error) => {
                pool.count_second(second);
                return Err(Unsent::Perhaps(error));
            }
        }
    }
}

/// An answer that has begun.
struct Begun {
    head: response::Parts,
    body: Framed,
    /// The rest of the request, if its body goes on.
    sending: Option<Box<Sending>>,
}

/// Sends as much of a request as the resource takes until the head of its answer has come.
async fn exchange(
    connection: &mut PooledConnection,
    request: &mut Request<RequestBody>,
    client: (ForwardedHeaders, &HeaderValue),
    safe: bool,
) -> Result<Begun, Failed> {
    let sent = Instant::now();
    let mut reader = HeadReader::new(request);
    let mut sending = Some(Sending::new(request, client));
    let may_cross = safe && connection.reused;
    let mut untaken = false;
    let (head, mut body) = poll_fn(|cx| {
        if let Some(own) = &mut sending {
            match own.poll(cx, &connection.stream) {
                Poll::Ready(Ok(())) if own.has_failed_unsent() => {
                    return Poll::Ready(Err(Failed::Unsent(UpstreamError::Incomplete)));
                }
                Poll::Ready(Ok(())) => {
                    untaken = own.is_untaken();
                    sending = None;
                }
                Poll::Ready(Err(reason)) => return Poll::Ready(Err(Failed::Client(reason))),
                Poll::Pending => {}
            }
        }
        reader.poll(cx, &mut connection.stream).map_err(|error| {
            let closed = match &error {
                UpstreamError::Incomplete => true,
                UpstreamError::Io(error) => is_closed(error),
                _ => false,
            };
            if may_cross && !reader.has_begun() && resend::crossed(closed.then(Instant::now), sent) {
                return Failed::Crossed;
            }
            Failed::Upstream(if closed { UpstreamError::Incomplete } else { error })
        })
    })
    .await?;
    // Half of a request is on it.
    body.keeps &= !untaken;
    Ok(Begun { head, body, sending: sending.map(Box::new) })
}

/// The answer; a task sends the rest of the request.
fn answer(connection: PooledConnection, begun: Begun) -> Response<AnswerBody> {
    let Begun { head, body, sending } = begun;
    let body = match sending {
        None => AnswerBody::new(connection, body),
        Some(mut sending) => {
            let (from, to) = connection.stream.into_split();
            sending.stop_when_untaken();
            let upload = tokio::spawn(async move {
                let sent = poll_fn(|cx| sending.poll(cx, to.as_ref())).await;
                // Not half-closed: some resources take that for the client's leaving.
                to.forget();
                sent
            });
            AnswerBody::beside_upload(from, UploadTask::new(upload), body)
        }
    };
    Response::from_parts(head, body)
}
