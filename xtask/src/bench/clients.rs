//! Many clients at once, each on a connection of its own, each sending one request and never retrying.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout_at,
};

/// Clients that have sent their request and wait.
pub struct Clients {
    waiting: JoinSet<Result<Duration>>,
    sent: usize,
}

/// What became of the requests.
pub struct Answers {
    /// From sending to the first byte, of each one answered 200, in order of size.
    pub times: Vec<Duration>,
    /// What the others got.
    pub errors: Vec<String>,
}

// === impl Clients ===

impl Clients {
    /// Opens `count` connections and sends one request on each, to the host of its number.
    ///
    /// # Errors
    ///
    /// A connection that cannot be opened.
    pub async fn send(address: SocketAddr, host: impl Fn(usize) -> String, count: usize) -> Result<Self> {
        let mut waiting = JoinSet::new();
        for number in 0..count {
            let mut socket = connect(address, &host(number), number).await?;
            let sent = Instant::now();
            waiting.spawn(async move { answer(&mut socket).await.map(|()| sent.elapsed()) });
        }
        Ok(Self { waiting, sent: count })
    }

    /// How many were sent.
    pub fn sent(&self) -> usize {
        self.sent
    }

    /// Waits for every answer.
    ///
    /// # Errors
    ///
    /// Not all have come after `limit`.
    pub async fn answers(mut self, limit: Duration) -> Result<Answers> {
        let until = tokio::time::Instant::now() + limit;
        let mut answers = Answers { times: Vec::with_capacity(self.sent), errors: Vec::new() };
        loop {
            match timeout_at(until, self.waiting.join_next()).await {
                Ok(None) => break,
                Ok(Some(Ok(Ok(time)))) => answers.times.push(time),
                Ok(Some(Ok(Err(error)))) => answers.errors.push(format!("{error:#}")),
                Ok(Some(Err(error))) => answers.errors.push(error.to_string()),
                Err(_) => {
                    bail!("{} of {} requests have no answer after {limit:?}", self.waiting.len(), self.sent)
                }
            }
        }
        answers.times.sort();
        Ok(answers)
    }
}

/// Opens a connection and sends a request.
///
/// # Errors
///
/// The connection cannot be opened.
pub async fn connect(address: SocketAddr, host: &str, number: usize) -> Result<TcpStream> {
    let mut socket =
        TcpStream::connect(address).await.with_context(|| format!("connection {number} to {address}"))?;
    // About what curl sends, plus an id as a tracing client would.
    let request = format!(
        "GET /?{number} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\nX-Request-Id: {number:032}\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await?;
    Ok(socket)
}

/// Reads the first bytes of an answer.
///
/// # Errors
///
/// It is not 200, or there is none.
pub async fn answer(socket: &mut TcpStream) -> Result<()> {
    let mut head = Vec::with_capacity(512);
    loop {
        let read = socket.read_buf(&mut head).await?;
        if let Some(space) = head.iter().position(|byte| *byte == b' ')
            && let Some(status) = head.get(space + 1..space + 4)
        {
            if status != b"200" {
                bail!("{}", String::from_utf8_lossy(&head).lines().next().unwrap_or_default());
            }
            return Ok(());
        }
        if read == 0 {
            bail!("the connection was closed without an answer");
        }
    }
}
