//! Holds the first request of a connection before anything is built for it: its bytes stay in the socket, which costs a
//! task and no buffer.

use std::sync::Arc;

use crate::{
    admit::{Admission, head_weight, static_answer},
    client::Socket,
    forward::http::ParkedRequest,
    identify::{
        Identifier, Origin,
        head::{Head, HeadFields},
    },
    state::ResourceHandle,
};

/// A first request to hold: its resource was not up, and the bytes to reserve for it.
pub(super) type ToHold = (Arc<ResourceHandle>, u64);

/// Holds the first request.
///
/// # Errors
///
/// The client left.
pub(super) async fn park((resource, bytes): ToHold, socket: &Socket) -> Result<ParkedRequest, ()> {
    // It is counted when it is dispatched; that there was a request is noted now.
    resource.counts.touch();
    let mut admission = Admission::new(resource);
    let outcome = tokio::select! {
        outcome = admission.wait(bytes) => outcome,
        () = socket.closed() => return Err(()),
    };
    Ok(ParkedRequest { admission, outcome, counted: false, sent_before: false })
}

/// The first request, if its resource is certain and not up. `bytes`: those that are in the socket.
pub(super) fn find_to_hold(identifier: &Identifier, origin: &Origin, bytes: &[u8]) -> Option<ToHold> {
    if identifier.needs_headers(origin) || origin.port.as_ref().is_some_and(|port| port.resource.is_open()) {
        return None;
    }
    let mut room = HeadFields::room();
    // A bad head is answered by the HTTP server, and wakes nothing.
    let head = Head::read(bytes, &mut room).ok()??;
    let host = head.host?;
    if head.field("via").is_some() {
        return None;
    }
    let resource = identifier.find(origin, Some(host), None).ok()??.resource;
    if resource.is_open() {
        return None;
    }
    // A request that has a static response is not held.
    let path = head.target.split(['?', '#']).next()?;
    if static_answer(&resource.snapshot.load().settings, head.field("user-agent"), path).is_some() {
        return None;
    }
    resource.note_cause(|| identifier.wake_cause(origin, &head, host));
    Some((resource, head_weight(&head)))
}
