//! Holding the first request of a connection before anything is built for it: its bytes stay in the socket, which costs
//! a task and no buffer.

use std::sync::Arc;

use http::header;
use rustix::net::{RecvFlags, recv};
use tokio::time::Instant;

use super::Socket;
use crate::{
    answer::Refusal,
    proxy::{Caller, SOCKET_TAKES},
    resource::{Admitted, Entry},
};

/// The longest head that is looked at here. Longer ones, and those that come in pieces, are held by the HTTP server.
const LONGEST: usize = 4096;
/// Fields of such a head, at most.
const FIELDS: usize = 48;

/// What a parked request was told.
#[derive(Debug)]
pub struct Parked {
    /// For whom it is.
    pub entry: Arc<Entry>,
    /// What it was told.
    pub told: Result<Admitted, Arc<Refusal>>,
}

/// Holds the connection's first request if its resource is not up. `Ok(None)`: there is nothing to be parked.
///
/// # Errors
///
/// The client left.
pub async fn park(caller: &Caller, socket: &Socket) -> Result<Option<Parked>, ()> {
    // The headers of a trusted peer may say another resource than the host does; than the port, never.
    if caller.trusted && caller.identity.is_none() {
        return Ok(None);
    }
    let Some((entry, bytes)) = whose(caller, socket) else { return Ok(None) };
    if entry.is_open() {
        return Ok(None);
    }
    // It is counted when it is let go; that somebody asked is known from now on.
    entry.counts.touch();
    let deadline = Instant::now() + entry.facts.load().settings.hold_timeout;
    tokio::select! {
        told = entry.admit(bytes, deadline) => Ok(Some(Parked { entry: entry.clone(), told })),
        () = socket.closed() => Err(()),
    }
}

/// For whom the first request is, where that is plain, and the bytes to reserve for it.
///
/// Not `async`: a parked request is not to carry the buffer.
fn whose(caller: &Caller, socket: &Socket) -> Option<(Arc<Entry>, u64)> {
    let mut bytes = [0; LONGEST];
    let (_, len) = recv(socket.stream(), bytes.as_mut_slice(), RecvFlags::PEEK | RecvFlags::DONTWAIT).ok()?;
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut head = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(length) = head.parse(&bytes[..len]).ok()? else { return None };
    // An absolute form is stronger than the host.
    if !head.path?.starts_with('/') {
        return None;
    }
    let field = |name: header::HeaderName| {
        head.headers.iter().filter(move |field| field.name.eq_ignore_ascii_case(name.as_str()))
    };
    let mut hosts = field(header::HOST);
    let host = hosts.next()?;
    if hosts.next().is_some() || field(header::VIA).next().is_some() {
        return None;
    }
    let entry = match &caller.identity {
        Some(identity) => identity.entry.clone(),
        None => caller.dlx.table.load().by_host(std::str::from_utf8(host.value).ok()?)?.clone(),
    };
    // They may answer it here.
    if !entry.facts.load().settings.no_wake.is_empty() {
        return None;
    }
    let mut lengths = field(header::CONTENT_LENGTH);
    let body = match (lengths.next(), field(header::TRANSFER_ENCODING).next()) {
        // Two lengths: malformed, and the HTTP server's to refuse. It must not wake anybody.
        (Some(_), Some(_)) => return None,
        (Some(_), None) if lengths.next().is_some() => return None,
        (Some(text), None) => std::str::from_utf8(text.value).ok()?.trim().parse().ok()?,
        (None, Some(_)) => u64::MAX,
        (None, None) => 0,
    };
    Some((entry, length as u64 + body.min(SOCKET_TAKES)))
}
