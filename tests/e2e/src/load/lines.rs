//! A client of a line protocol over plain TCP: an id out, a line that repeats it back.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use super::{
    Lost, Outcome,
    http::{crossed, is_open},
};

/// A connection to a line service.
#[derive(Debug)]
pub struct Lines(BufReader<TcpStream>);

// === impl Lines ===

impl Lines {
    /// Connects.
    ///
    /// # Errors
    ///
    /// Refused, or reset.
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Whether the other side has not closed since the last answer.
    pub fn usable(&self) -> bool {
        is_open(self.0.get_ref())
    }

    /// Sends an id and waits for its answer. `None`: the connection was closed before anything was sent.
    pub async fn send(&mut self, id: &str) -> Option<Outcome> {
        if self.usable() { Some(self.send_blind(id).await) } else { None }
    }

    /// As [`Lines::send`], without looking first whether the other side has closed.
    pub async fn send_blind(&mut self, id: &str) -> Outcome {
        let mut line = String::new();
        let sent = self.0.get_mut().write_all(format!("{id}\n").as_bytes()).await;
        match self.0.read_line(&mut line).await {
            Ok(0) if sent.is_err() || crossed(self.0.get_ref()).await => Outcome::Crossed,
            Ok(0) => Outcome::Lost(Lost::NoAnswer("closed".into())),
            Ok(_) => match line.trim_end().split_once(' ') {
                Some((by, found)) if found == id => Outcome::Answered { by: by.to_owned() },
                _ => Outcome::Lost(Lost::CutShort(format!("{line:?}"))),
            },
            Err(error) => Outcome::Lost(Lost::NoAnswer(error.to_string())),
        }
    }
}
