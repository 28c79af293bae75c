//! Listening sockets, handed over or bound.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

use listenfd::ListenFd;
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with, sockopt},
};

use crate::settings::InvalidValue;

/// How many connections may wait to be accepted; the kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// The sockets a supervisor handed over (`LISTEN_FDS`, `LISTEN_PID`), found by the address they are bound to.
#[derive(Debug, Default)]
pub struct InheritedSockets {
    sockets: Vec<(SocketAddr, TcpListener)>,
}

// === impl InheritedSockets ===

impl InheritedSockets {
    /// Once, at start, before any thread: takes the descriptors and clears the variables.
    ///
    /// # Errors
    ///
    /// A descriptor that was handed over is no listening TCP socket.
    pub fn take() -> io::Result<Self> {
        let mut handed = ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..handed.len() {
            let with = |error| {
                io::Error::other(format!(
                    "LISTEN_FDS: descriptor number {index} of those handed over: {error}"
                ))
            };
            // Sets close-on-exec, so that what a plugin starts does not inherit it.
            if let Some(socket) = handed.take_tcp_listener(index).map_err(with)? {
                if !sockopt::socket_acceptconn(&socket)? {
                    return Err(with(io::Error::other("the socket does not listen")));
                }
                socket.set_nonblocking(true)?;
                sockets.push((socket.local_addr()?, socket));
            }
        }
        Ok(Self { sockets })
    }

    /// The handed-over socket bound to `address`, else a new one. `":8090"` is all addresses. Non-blocking.
    ///
    /// A handed-over socket stays with this process: asked for again (its port went and came back), it is found again.
    ///
    /// # Errors
    ///
    /// The address cannot be bound; the message names it.
    pub fn bind(&self, address: SocketAddr) -> io::Result<TcpListener> {
        match self.sockets.iter().find(|(bound, _)| fits(*bound, address)) {
            Some((_, socket)) => socket.try_clone(),
            None => open(address).map_err(|error| {
                io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
            }),
        }
    }
}

/// `:8090`, `127.0.0.1:8090`, `[::1]:8090`.
///
/// # Errors
///
/// Anything else.
pub fn parse_address(text: &str) -> Result<SocketAddr, InvalidValue> {
    let expected = ":8090 (all addresses), 127.0.0.1:8090 or [::1]:8090";
    let wrong = || InvalidValue::new(text, "an address", expected);
    match text.strip_prefix(':') {
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Ok(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port.parse().map_err(|_| wrong())?))
        }
        _ => text.parse().map_err(|_| wrong()),
    }
}

/// Whether a socket bound to `bound` is what is meant by `wanted`. "All addresses" is so in either family.
fn fits(bound: SocketAddr, wanted: SocketAddr) -> bool {
    bound == wanted
        || bound.port() == wanted.port() && bound.ip().is_unspecified() && wanted.ip().is_unspecified()
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    match open_in_family(address) {
        // A host without IPv6: all its addresses are those of IPv4.
        Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL)
            if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) =>
        {
            Ok(open_in_family(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()))?)
        }
        opened => Ok(opened?),
    }
}

fn open_in_family(address: SocketAddr) -> Result<TcpListener, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    // A restart must not wait for connections of the process before that linger in TIME_WAIT.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        // `[::]` takes IPv4 too, whatever net.ipv6.bindv6only says.
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn addresses_as_people_write_them() {
        for (text, address) in [
            (":8090", "[::]:8090"),
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[::1]:9", "[::1]:9"),
            (":0", "[::]:0"),
        ] {
            assert_eq!(parse_address(text), Ok(address.parse().unwrap()), "{text}");
        }
        for text in ["", ":", "8090", ":65536", ":+1", "localhost:80", "127.0.0.1", "::1:80", ":80 ", "[::]"]
        {
            let error = parse_address(text).unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")) && error.contains("expected"), "{text:?}: {error}");
        }
    }

    #[test]
    fn all_addresses_are_those_of_both_families() {
        let listener = InheritedSockets::default().bind(parse_address(":0").unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert!(rustix::io::fcntl_getfd(&listener).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    }

    #[test]
    fn a_taken_port_is_named() {
        let handed = InheritedSockets::default();
        let first = handed.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let error = handed.bind(address).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}
