//! Two connections as one: what ends one of them ends the other the same way.

use std::{convert::Infallible, io};

use rustix::net::{Shutdown, shutdown};
use tokio::{io::Interest, net::TcpStream};

/// As much as is read at once.
const CHUNK: usize = 16 * 1024;

/// How one direction was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// Who sends has reset its connection.
    Source,
    /// Who receives takes no more.
    Sink,
}

/// Carries bytes both ways until both sides have closed. `false`: one side's connection was reset, and so is the other's.
pub async fn splice(client: TcpStream, endpoint: TcpStream) -> bool {
    let whole = carry_both(&client, &endpoint).await.is_ok();
    if !whole {
        // It may be closed for good already.
        let _ = client.set_zero_linger();
        let _ = endpoint.set_zero_linger();
    }
    whole
}

/// A side that resets ends both directions at once. One that only takes no more may have sent, and closed, before that: it
/// is read to its end, so that the other side learns both, and in that order.
async fn carry_both(client: &TcpStream, endpoint: &TcpStream) -> Result<(), Cut> {
    let nodelay = client.set_nodelay(true).and_then(|()| endpoint.set_nodelay(true));
    nodelay.map_err(|_gone| Cut::Source)?;
    let there = carry(client, endpoint);
    let back = carry(endpoint, client);
    tokio::pin!(there, back);
    let (first, other, ended) = tokio::select! {
        first = &mut there => (first, back, client),
        first = &mut back => (first, there, endpoint),
    };
    match first {
        Ok(()) => tokio::select! {
            second = other => second,
            // Who has closed does not read either: what came to it was answered so.
            Err(cut) = takes_no_more(ended) => Err(cut),
        },
        Err(Cut::Source) => first,
        Err(Cut::Sink) => other.await.and(first),
    }
}

/// Carries bytes until the source closes, and then closes the sink.
async fn carry(source: &TcpStream, sink: &TcpStream) -> Result<(), Cut> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match read(source, &mut chunk).await {
            Ok(0) => return shutdown(sink, Shutdown::Write).map_err(|_gone| Cut::Sink),
            Ok(length) => write(sink, &chunk[..length]).await.map_err(|_gone| Cut::Sink)?,
            Err(_reset) => return Err(Cut::Source),
        }
    }
}

async fn read(source: &TcpStream, chunk: &mut [u8]) -> io::Result<usize> {
    loop {
        source.readable().await?;
        match source.try_read(chunk) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}

async fn write(sink: &TcpStream, mut chunk: &[u8]) -> io::Result<()> {
    while !chunk.is_empty() {
        sink.writable().await?;
        match sink.try_write(chunk) {
            Ok(written) => chunk = &chunk[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits until a connection whose other side has closed is reset.
async fn takes_no_more(stream: &TcpStream) -> Result<Infallible, Cut> {
    let _ = stream.ready(Interest::ERROR).await;
    Err(Cut::Sink)
}
