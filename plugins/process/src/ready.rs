//! Is a process ready to take requests?

use std::{net::Ipv4Addr, time::Duration};

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

/// Waits until the process answers.
pub async fn wait(run: &Run) {
    let begin = Instant::now();
    loop {
        if let Ok(Ok(true)) = timeout(PATIENCE, answers(run)).await {
            return;
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "a refused connection is all there is to see until a port listens"
        )]
        tokio::time::sleep((begin.elapsed() / 10).clamp(PAUSES.0, PAUSES.1)).await;
    }
}

async fn answers(run: &Run) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, run.port)).await?;
    // The kernel may connect a socket to itself when no process listens on a port from which it may also send.
    if stream.local_addr()? == stream.peer_addr()? {
        return Ok(false);
    }
    let Some(path) = &run.ready_path else { return Ok(true) };
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nuser-agent: scaler-probe\r\nconnection: close\r\n\r\n",
        run.port
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    Ok(head.starts_with(b"HTTP/1.") && head[8..10] == *b" 2")
}
