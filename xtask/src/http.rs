//! One HTTP exchange on a connection of its own: enough to ask a daemon or to knock at a resource.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The head, status line included.
    pub head: String,
    /// The body.
    pub body: String,
}

/// `GET path` from `address` under the name `host`.
///
/// # Errors
///
/// No connection, no whole answer, or none within `limit`.
pub async fn get(address: SocketAddr, host: &str, path: &str, limit: Duration) -> Result<Answer> {
    let exchange = async {
        let mut socket = TcpStream::connect(address).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: xtask\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await?;
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes).await?;
        std::io::Result::Ok(bytes)
    };
    let doing = || format!("GET http://{address}{path} (Host: {host})");
    let bytes = match timeout(limit, exchange).await {
        Ok(bytes) => bytes.with_context(doing)?,
        Err(_) => bail!("{}: no answer within {limit:?}", doing()),
    };
    Answer::parse(&String::from_utf8_lossy(&bytes)).with_context(doing)
}

/// The same, its body read as JSON.
///
/// # Errors
///
/// As [`get`], another status than 200, or no JSON.
pub async fn get_json(address: SocketAddr, path: &str) -> Result<serde_json::Value> {
    let answer = get(address, "localhost", path, Duration::from_secs(5)).await?;
    if answer.status != 200 {
        bail!("GET http://{address}{path}: {} {}", answer.status, answer.body);
    }
    serde_json::from_str(&answer.body).with_context(|| format!("reading the JSON of http://{address}{path}"))
}

// === impl Answer ===

impl Answer {
    fn parse(text: &str) -> Result<Self> {
        let (head, body) =
            text.split_once("\r\n\r\n").context("the connection was closed before a whole head came")?;
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status line")?;
        let mut answer = Self { status, head: head.to_owned(), body: body.to_owned() };
        if answer.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            answer.body = unchunk(body).context("a chunked body that is cut short")?;
        } else if let Some(length) =
            answer.header("content-length").and_then(|length| length.parse::<usize>().ok())
            && body.len() < length
        {
            bail!("the body has {} of {length} bytes", body.len());
        }
        Ok(answer)
    }

    /// The first header of this name (in small letters).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

fn unchunk(mut text: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (size, rest) = text.split_once("\r\n")?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.push_str(rest.get(..size)?);
        text = rest.get(size..)?.strip_prefix("\r\n")?;
    }
}
