//! Holds the first request of a connection before anything is built for it: its bytes stay in the socket, which costs a
//! task and no buffer.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use rustix::net::{RecvFlags, recv};

use crate::{
    admit::{Admission, SOCKET_BUFFER_BYTES, static_answer},
    client::Socket,
    forward::http::{ConnectionContext, ParkedRequest},
    identify::{
        client,
        head::{Head, HeadFields, Length},
    },
    state::{ResourceHandle, WakeCause},
};

/// The longest head that is peeked at. Longer heads, and heads in several parts, are held by the HTTP server.
const MAX_PEEKED_HEAD: usize = 4096;

/// Holds the first request if its resource is not up. `Ok(None)`: there is nothing to park.
///
/// # Errors
///
/// The client left.
pub(crate) async fn park(context: &ConnectionContext, socket: &Socket) -> Result<Option<ParkedRequest>, ()> {
    if context.identifier.needs_headers(&context.origin) {
        return Ok(None);
    }
    let Some((resource, bytes)) = first_request(context, socket) else { return Ok(None) };
    if resource.is_open() {
        return Ok(None);
    }
    // It is counted when it is dispatched; that there was a request is noted now.
    resource.counts.touch();
    let mut admission = Admission::new(resource);
    let outcome = tokio::select! {
        outcome = admission.wait(bytes) => outcome,
        () = socket.closed() => return Err(()),
    };
    Ok(Some(ParkedRequest { admission, outcome }))
}

/// The resource of the first request, where that is certain, and the bytes to reserve for it.
///
/// Not `async`: a parked request must not carry the buffer.
fn first_request(context: &ConnectionContext, socket: &Socket) -> Option<(Arc<ResourceHandle>, u64)> {
    let mut bytes = [0; MAX_PEEKED_HEAD];
    let (_, len) = recv(socket.stream(), bytes.as_mut_slice(), RecvFlags::PEEK | RecvFlags::DONTWAIT).ok()?;
    let mut room = HeadFields::room();
    // A bad head is answered by the HTTP server, and wakes nothing.
    let head = Head::read(&bytes[..len], &mut room).ok()??;
    let host = head.host?;
    if head.field("via").is_some() {
        return None;
    }
    let resource = context.identifier.find(&context.origin, Some(host), None).ok()??.resource;
    // A request that has a static response is not held.
    let path = head.target.split(['?', '#']).next()?;
    if static_answer(&resource.snapshot.load().settings, head.field("user-agent"), path).is_some() {
        return None;
    }
    let body = match head.body {
        Length::Known(length) => length,
        Length::Chunked => u64::MAX,
    };
    if !resource.is_open() {
        resource.note_cause(|| {
            let headers = head.fields.iter().filter_map(|field| {
                Some((field.name.parse().ok()?, HeaderValue::from_bytes(field.value).ok()?))
            });
            let headers: HeaderMap = headers.collect();
            let client = client(&context.identifier.peers, &context.origin.peer, &headers);
            WakeCause::request(client, head.method, host, head.target)
        });
    }
    Some((resource, head.len as u64 + body.min(SOCKET_BUFFER_BYTES)))
}
