//! Listening sockets, handed over or bound.
use std::{io, net::{SocketAddr, TcpListener}};
/// The sockets a supervisor handed over (`LISTEN_FDS`, `LISTEN_PID`), found by the address they are bound to.
pub struct Handed {}
impl Handed {
    /// Once, at start, before any thread: takes the descriptors and clears the variables.
    pub fn take() -> io::Result<Self> { todo!() }
    /// The handed-over socket bound to `address`, else a new one. `":8090"` is all addresses. Non-blocking.
    pub fn bind(&self, address: SocketAddr) -> io::Result<TcpListener> { todo!() }
}
/// `:8090`, `127.0.0.1:8090`, `[::1]:8090`.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> { todo!() }
