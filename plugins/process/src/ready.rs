//! Is a process ready to take requests?

use std::{io, net::Ipv4Addr, time::Duration};

use scaler_types::scaling_options::BusyProbe;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::run::Run;

/// The shortest and the longest pause between two attempts: no event reports that a port begins to listen. In between a
/// tenth of the time it has taken so far, so that little is added to it.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// A service that accepts and then sends nothing is probed again after this.
const PATIENCE: Duration = Duration::from_secs(2);

/// A probe whether it is busy that takes longer is not answered.
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);

/// Waits until the process answers on its port.
pub async fn wait(run: &Run, port: u16) {
    let begin = Instant::now();
    loop {
        if let Ok(Ok(true)) = timeout(PATIENCE, answers(run, port)).await {
            return;
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "a refused connection is all there is to see until a port listens"
        )]
        tokio::time::sleep((begin.elapsed() / 10).clamp(PAUSES.0, PAUSES.1)).await;
    }
}

/// Why it counts as busy; none: it says that it is idle.
pub async fn busy(probe: &BusyProbe) -> Option<String> {
    let BusyProbe { port, path } = probe;
    let answered = timeout(BUSY_TIMEOUT, async { get(&mut connect(*port).await?, *port, path).await });
    match answered.await {
        Ok(Ok(204 | 404)) => None,
        Ok(Ok(status @ 200..300)) => Some(format!("http://:{port}{path} answered {status}: it is busy")),
        Ok(Ok(status)) => Some(format!(
            "http://:{port}{path} answered {status}, expected 2xx if it is busy, 204 or 404 if it is idle"
        )),
        Ok(Err(error)) => Some(format!("http://:{port}{path} did not say whether it is busy: {error}")),
        Err(_) => {
            Some(format!("http://:{port}{path} did not say within {BUSY_TIMEOUT:?} whether it is busy"))
        }
    }
}

async fn answers(run: &Run, port: u16) -> io::Result<bool> {
    let mut stream = connect(port).await?;
    // The kernel may connect a socket to itself when no process listens on a port from which it may also send.
    if stream.local_addr()? == stream.peer_addr()? {
        return Ok(false);
    }
    let Some(path) = &run.ready_path else { return Ok(true) };
    Ok((200..300).contains(&get(&mut stream, port, path).await?))
}

async fn connect(port: u16) -> io::Result<TcpStream> {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await
}

/// The status of the answer.
async fn get(stream: &mut TcpStream, port: u16, path: &str) -> io::Result<u16> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nuser-agent: scaler-probe\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    let status = str::from_utf8(&head[9..]).ok().filter(|_| head.starts_with(b"HTTP/1."));
    let status = status.and_then(|status| status.parse().ok());
    status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an answer in HTTP/1"))
}
