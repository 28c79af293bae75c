//! Addresses of this host. The tests in `tests/` compile this file, too.

use std::{
    net::{SocketAddr, TcpListener},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use scaler_types::ServicePorts;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// How long an event may take before the test gives up on it.
pub(crate) const EVENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Sends bytes and reads until the other side closes the connection.
pub(crate) async fn raw_at(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(EVENT_TIMEOUT, stream.read_to_end(&mut answer)).await.expect("an answer").unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// A port of this host.
pub(crate) fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A range of ports that were free a moment ago, below those of outgoing connections.
pub(crate) fn free_range(count: u16) -> ServicePorts {
    static NEXT_OFFSET: AtomicU16 = AtomicU16::new(0);
    // Tests run in parallel, in this process and in others: each takes other ports.
    let offset = NEXT_OFFSET.fetch_add(count, Ordering::SeqCst);
    let mut first = 10_000 + (std::process::id() as u16 % 500) * 40 + offset;
    loop {
        let ports = ServicePorts { first, last: first + count - 1 };
        let bound: Result<Vec<_>, _> = ports.all().map(|port| TcpListener::bind(("::", port))).collect();
        match bound {
            Ok(_) => return ports,
            Err(_) => first = if first > 30_000 { 10_000 } else { ports.last + 1 },
        }
    }
}
