//! The port that a process is to listen on.

use std::net::Ipv4Addr;

use anyhow::Context as _;
use rustix::net::{
    AddressFamily, SocketAddrV4, SocketFlags, SocketType, bind, ipproto, socket_with, sockopt,
};
use scaler_types::Result;

/// Fails if a port is in use: another program's answers would be taken for the process's.
///
/// # Errors
///
/// Another program listens on it, or the port may not be used.
pub fn ensure_free(port: u16) -> Result<()> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, Some(ipproto::TCP))
        .context("making a socket")?;
    // As servers do: connections of an earlier run that have not timed out yet do not count. A listening socket does.
    sockopt::set_socket_reuseaddr(&socket, true).context("making a socket")?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).with_context(|| {
        format!("port {port} is not free: another program uses it (ss -ltnp 'sport = :{port}' shows which)")
    })
}
