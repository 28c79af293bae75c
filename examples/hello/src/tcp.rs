//! The TCP echo service.

use std::{io, sync::Arc};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::journal::Journal;

/// The longest line it takes.
const LONGEST_LINE: usize = 64 << 10;

/// Serves each connection, for ever.
pub async fn accept(listener: Option<TcpListener>, journal: Arc<Journal>) {
    let Some(listener) = listener else { return std::future::pending().await };
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let journal = Arc::clone(&journal);
        tokio::spawn(async move {
            // A client that breaks off is no news.
            let _ = echo(stream, &journal).await;
        });
    }
}

async fn echo(mut stream: TcpStream, journal: &Journal) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.split();
    let mut lines = BufReader::new(read);
    let mut line = Vec::new();
    loop {
        line.clear();
        loop {
            let (part, ended) = match lines.fill_buf().await? {
                [] => return write.write_all(&line).await,
                buffer => match buffer.iter().position(|byte| *byte == b'\n') {
                    Some(at) => (&buffer[..=at], true),
                    None => (buffer, false),
                },
            };
            line.extend_from_slice(part);
            let length = part.len();
            lines.consume(length);
            if ended {
                break;
            }
            if line.len() > LONGEST_LINE {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        journal.request(String::from_utf8_lossy(&line).trim_end())?;
        write.write_all(&line).await?;
    }
}
