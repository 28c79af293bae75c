//! Holding the first request of a connection before anything is built for it: its bytes stay in the socket, which costs
//! a task and no buffer.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use rustix::net::{RecvFlags, recv};

use crate::{
    admit::{Admission, SOCKET_TAKES, static_answer},
    client::Socket,
    forward::http::{Caller, Parked},
    identify::{
        client,
        head::{Fields, Head, Length},
    },
    state::{Entry, WakeCause},
};

/// The longest head that is looked at here. Longer ones, and those that come in pieces, are held by the HTTP server.
const LONGEST: usize = 4096;

/// Holds the connection's first request if its resource is not up. `Ok(None)`: there is nothing to be parked.
///
/// # Errors
///
/// The client left.
pub async fn park(caller: &Caller, socket: &Socket) -> Result<Option<Parked>, ()> {
    let Some((entry, bytes)) = whose(caller, socket) else { return Ok(None) };
    if entry.is_open() {
        return Ok(None);
    }
    // It is counted when it is let go; that somebody asked is known from now on.
    entry.counts.touch();
    let mut admission = Admission::new(entry);
    let told = tokio::select! {
        told = admission.wait(bytes) => told,
        () = socket.closed() => return Err(()),
    };
    Ok(Some(Parked { admission, told }))
}

/// For whom the first request is, where that is plain, and the bytes to reserve for it.
///
/// Not `async`: a parked request is not to carry the buffer.
fn whose(caller: &Caller, socket: &Socket) -> Option<(Arc<Entry>, u64)> {
    let mut bytes = [0; LONGEST];
    let (_, len) = recv(socket.stream(), bytes.as_mut_slice(), RecvFlags::PEEK | RecvFlags::DONTWAIT).ok()?;
    let mut room = Fields::room();
    // What is refused is answered by whoever reads it, and wakes nobody.
    let head = Head::read(&bytes[..len], &mut room).ok()??;
    let host = head.host?;
    if head.field("via").is_some() {
        return None;
    }
    let entry = caller.identifier.find(&caller.origin, Some(host), None).ok()??.entry;
    // A monitor's is not held.
    let path = head.target.split(['?', '#']).next()?;
    if static_answer(&entry.facts.load().settings, head.field("user-agent"), path).is_some() {
        return None;
    }
    let body = match head.body {
        Length::Known(length) => length,
        Length::Chunked => u64::MAX,
    };
    if !entry.is_open() {
        entry.note_cause(|| {
            let said = head.fields.iter().filter_map(|field| {
                Some((field.name.parse().ok()?, HeaderValue::from_bytes(field.value).ok()?))
            });
            let said: HeaderMap = said.collect();
            let client = client(&caller.identifier.peers, &caller.origin.peer, &said);
            WakeCause::request(client, head.method, host, head.target)
        });
    }
    Some((entry, head.len as u64 + body.min(SOCKET_TAKES)))
}
