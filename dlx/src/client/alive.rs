//! Has the kernel detect connections whose other end is gone. A request in flight keeps its resource awake: without this,
//! a client that lost power would do so for ever. Also resets connections that were not served.

use std::{os::fd::AsFd, time::Duration};

use rustix::net::sockopt::{
    set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl, set_tcp_nodelay,
    set_tcp_user_timeout,
};
use tokio::net::TcpStream;

/// Without data for this long the kernel sends keep-alive probes,
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// one in each interval of this length,
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// this many; then the connection breaks.
const KEEPALIVE_PROBES: u32 = 4;

/// Sets all options of a client's connection, or of a listening socket whose connections inherit them: it breaks when the
/// client is gone, or has left bytes unread for `stall` (0: for ever), and small writes do not wait for an acknowledgement.
pub(crate) fn watch_client(socket: impl AsFd, stall: Duration) {
    // On failure it is only slower.
    let _ = set_tcp_nodelay(&socket, true);
    watch(&socket);
    want_reading(&socket, stall);
}

/// Breaks the connection when its other end is gone.
pub(crate) fn watch(socket: impl AsFd) {
    // On failure the loss is detected later or never, as without the option.
    let _ = set_tcp_keepidle(&socket, KEEPALIVE_IDLE)
        .and_then(|()| set_tcp_keepintvl(&socket, KEEPALIVE_INTERVAL))
        .and_then(|()| set_tcp_keepcnt(&socket, KEEPALIVE_PROBES))
        .and_then(|()| set_socket_keepalive(&socket, true));
}

/// Breaks the connection also when its other end is there but takes no data for this long; 0: never.
pub(crate) fn want_reading(socket: impl AsFd, unread: Duration) {
    // On failure as above.
    let _ = set_tcp_user_timeout(socket, unread.as_millis().try_into().unwrap_or(u32::MAX));
}

/// Resets the connection when it is closed, instead of ending it: what the client sent was not served, or not wholly.
pub(crate) fn reset(stream: &TcpStream) {
    // On failure the connection ends like any other.
    let _ = stream.set_zero_linger();
}
