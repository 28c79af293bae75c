//! An HTTP/1.1 client on a bare socket: it sees exactly what became of each request.

use std::{io, net::SocketAddr, time::Duration};

use rustix::{
    io::Errno,
    net::{RecvFlags, recv},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::TcpStream,
    time::timeout,
};

use super::{Lost, Outcome};

/// How long after a close a reset may come; far above what it takes on one machine.
const RESET: Duration = Duration::from_secs(1);

/// A connection that carries one request after the other.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// What was received beyond the last answer.
    buffer: Vec<u8>,
    /// The last answer said `Connection: close`.
    closing: bool,
}

/// A whole answer.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Its headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
}

/// How sending one request over a connection ended.
#[derive(Debug)]
pub enum Exchange {
    /// It was answered.
    Answered(Response),
    /// The connection was closed before the request's first byte was sent: it may be sent over another one.
    Unsent,
    /// As [`Outcome::Crossed`].
    Crossed,
    /// It was sent and not answered.
    Lost(Lost),
}

/// A request without a body, to be sent once.
pub fn get(host: &str, path: &str, id: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nx-request-id: {id}\r\n\r\n").into_bytes()
}

/// A request with a short body: a proxy that has sent it must not send it a second time.
pub fn post(host: &str, path: &str, id: &str) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nx-request-id: {id}\r\n");
    format!("{head}Content-Length: {}\r\n\r\n{id}", id.len()).into_bytes()
}

/// Sends one request over a connection of its own; `Err` says how it was lost.
pub async fn once(address: SocketAddr, request: &[u8]) -> Result<Response, Lost> {
    let mut connection = Connection::open(address).await.map_err(|error| Lost::Connect(error.to_string()))?;
    match connection.send(request).await {
        Exchange::Answered(response) => Ok(response),
        Exchange::Unsent | Exchange::Crossed => {
            Err(Lost::Connect("closed before the request was sent".into()))
        }
        Exchange::Lost(lost) => Err(lost),
    }
}

/// Whether the other side of a connection has neither closed it nor sent anything. Asks the kernel: what the runtime knows is older, and
/// a daemon may have been killed since.
pub(super) fn is_open(stream: &TcpStream) -> bool {
    let looked = recv(stream, &mut [0_u8], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    looked.is_err_and(|error| error == Errno::WOULDBLOCK)
}

/// Whether the other side had closed before what was sent last reached its kernel: its answer to that, a reset, then
/// finds this side's socket closed for reading already, which Linux reports as EPIPE (else it is ECONNRESET). A socket
/// that is closed with something unread resets without closing first, so nothing that was received counts as crossed.
///
/// Through something in between the reset comes a little after the close: it is waited for, and without it the other side
/// has read what it closed upon.
pub(super) async fn crossed(stream: &TcpStream) -> bool {
    let _ = timeout(RESET, stream.ready(Interest::ERROR)).await;
    matches!(stream.take_error(), Ok(Some(error)) if error.kind() == io::ErrorKind::BrokenPipe)
}

// === impl Connection ===

impl Connection {
    /// Connects.
    ///
    /// # Errors
    ///
    /// Refused, or reset.
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new(), closing: false })
    }

    /// The socket itself.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Whether another request may be sent: the last answer allowed it, and the other side has not closed since.
    pub fn usable(&mut self) -> bool {
        !self.closing && is_open(&self.stream)
    }

    /// Sends one request and reads the answer. Nothing is sent where the connection was closed before.
    pub async fn send(&mut self, request: &[u8]) -> Exchange {
        if !self.usable() {
            return Exchange::Unsent;
        }
        match self.stream.write(request).await {
            // Nothing of it can have left: the socket was closed by the other side before.
            Err(_) => return Exchange::Unsent,
            Ok(sent) => {
                // The answer tells more than a failed write does: it may be on its way already.
                let _ = self.stream.write_all(&request[sent..]).await;
            }
        }
        match self.receive().await {
            Ok(response) => Exchange::Answered(response),
            Err(Lost::NoAnswer(_)) if crossed(&self.stream).await => Exchange::Crossed,
            Err(lost) => Exchange::Lost(lost),
        }
    }

    /// Reads one answer.
    ///
    /// # Errors
    ///
    /// None came, or not the whole of it.
    pub async fn receive(&mut self) -> Result<Response, Lost> {
        let (mut response, length) = loop {
            if let Some(head) = self.head()? {
                break head;
            }
            self.more().await.map_err(|error| {
                let error = error.to_string();
                if self.buffer.is_empty() { Lost::NoAnswer(error) } else { Lost::CutShort(error) }
            })?;
        };
        response.body = match length {
            Length::Known(length) => {
                while self.buffer.len() < length {
                    self.more().await.map_err(|error| Lost::CutShort(error.to_string()))?;
                }
                self.buffer.drain(..length).collect()
            }
            Length::Chunked => self.chunks().await.map_err(|error| Lost::CutShort(error.to_string()))?,
            Length::UntilClose => {
                self.closing = true;
                self.stream
                    .read_to_end(&mut self.buffer)
                    .await
                    .map_err(|error| Lost::CutShort(error.to_string()))?;
                std::mem::take(&mut self.buffer)
            }
        };
        if response.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            self.closing = true;
        }
        Ok(response)
    }

    fn head(&mut self) -> Result<Option<(Response, Length)>, Lost> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Response::new(&mut headers);
        let end = match parsed.parse(&self.buffer) {
            Ok(httparse::Status::Complete(end)) => end,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(error) => return Err(Lost::CutShort(format!("not an HTTP answer: {error}"))),
        };
        let response = Response {
            status: parsed.code.unwrap_or_default(),
            headers: parsed
                .headers
                .iter()
                .map(|header| {
                    (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned())
                })
                .collect(),
            body: Vec::new(),
        };
        self.buffer.drain(..end);
        let length = match (response.header("content-length"), response.header("transfer-encoding")) {
            (_, Some(_)) => Length::Chunked,
            (Some(length), None) => Length::Known(length.parse().unwrap_or_default()),
            (None, None) if matches!(response.status, 101 | 204 | 304) => Length::Known(0),
            (None, None) => Length::UntilClose,
        };
        Ok(Some((response, length)))
    }

    async fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let (start, size) = loop {
                match httparse::parse_chunk_size(&self.buffer) {
                    Ok(httparse::Status::Complete((start, size))) => break (start, size as usize),
                    Ok(httparse::Status::Partial) => self.more().await?,
                    Err(_) => return Err(io::Error::other("not a chunk")),
                }
            };
            while self.buffer.len() < start + size + 2 {
                self.more().await?;
            }
            body.extend_from_slice(&self.buffer[start..start + size]);
            self.buffer.drain(..start + size + 2);
            if size == 0 {
                return Ok(body);
            }
        }
    }

    async fn more(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed")),
            _ => Ok(()),
        }
    }
}

enum Length {
    Known(usize),
    Chunked,
    UntilClose,
}

// === impl Response ===

impl Response {
    /// The first header of this name (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    ///
    /// It is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.text()))
    }

    /// What this answer to `id` means: only the resource echoes the id, only we say 503 with `Retry-After`.
    pub fn outcome(&self, id: &str) -> Outcome {
        if self.status == 200 && self.header("x-request-id") == Some(id) {
            return Outcome::Answered { by: self.header("x-run").unwrap_or_default().to_owned() };
        }
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        match (self.status, self.header("retry-after"), body["reason"].as_str()) {
            (503, Some(_), Some(reason)) => Outcome::Refused { reason: reason.to_owned() },
            _ => Outcome::Lost(Lost::Status(self.status, self.text())),
        }
    }
}
