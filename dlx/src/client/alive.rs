//! Having the kernel find out that nobody is at a connection's other end. What is in flight there keeps a resource awake:
//! without this, a client that lost its power would do so for ever. And letting the other end know that it was not served.

use std::time::Duration;

use rustix::net::sockopt::{
    set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl, set_tcp_user_timeout,
};
use tokio::net::TcpStream;

/// Nothing came for so long: the other end is asked whether it is there,
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// again and again after this,
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// so many times; then the connection breaks.
const KEEPALIVE_PROBES: u32 = 4;

/// Breaks the connection when its other end is no longer there.
pub(crate) fn watch(stream: &TcpStream) {
    // Failing, it is merely found out later, or never, as without it.
    let _ = set_tcp_keepidle(stream, KEEPALIVE_IDLE)
        .and_then(|()| set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL))
        .and_then(|()| set_tcp_keepcnt(stream, KEEPALIVE_PROBES))
        .and_then(|()| set_socket_keepalive(stream, true));
}

/// Breaks the connection also when its other end is there and takes nothing for so long; 0: never.
pub(crate) fn want_reading(stream: &TcpStream, unread: Duration) {
    // As above.
    let _ = set_tcp_user_timeout(stream, unread.as_millis().try_into().unwrap_or(u32::MAX));
}

/// Has the connection's close tell the other end that it broke, not that it came to its end: what was sent on it was not
/// served, or not wholly.
pub(crate) fn reset(stream: &TcpStream) {
    // Failing, it is an end like any other.
    let _ = stream.set_zero_linger();
}
