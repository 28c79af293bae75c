//! The client of a case, through one proxy.

use std::{fmt, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    answers::number_of,
    case::{Case, cut},
    recorder::{Recorded, Recorder, pause},
};
use crate::testing::message::{Message, Parsed};

/// What a case looked like from both ends of a proxy.
#[derive(Debug)]
pub(super) struct Seen {
    /// At the resource.
    pub(super) resource: Recorded,
    /// Whole answers at the client.
    pub(super) answers: Vec<Message>,
    /// An answer that ended before its end.
    pub(super) partial: Option<Message>,
    /// What must not have come to the client.
    pub(super) fault: Option<String>,
    /// Whether nothing was in flight soon after the client had left.
    pub(super) settled: bool,
}

// === impl Seen ===

impl Seen {
    /// What must not have come, at either end.
    pub(super) fn faults(&self) -> impl Iterator<Item = &str> {
        self.resource.faults.iter().chain(&self.fault).map(String::as_str)
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let resource = &self.resource;
        resource.requests.iter().try_for_each(|request| writeln!(f, "  forwarded {request}"))?;
        resource.partial.iter().try_for_each(|request| writeln!(f, "  began     {request}"))?;
        self.answers.iter().try_for_each(|answer| writeln!(f, "  answered  {answer}"))?;
        self.partial.iter().try_for_each(|answer| writeln!(f, "  began     {answer}"))?;
        self.faults().try_for_each(|fault| writeln!(f, "  fault     {fault}"))
    }
}

struct Client<'a> {
    stream: TcpStream,
    recorder: &'a Recorder,
    /// How long nothing may happen before nothing more is expected.
    quiet: Duration,
    read: Vec<u8>,
    ended: bool,
    /// For each request, whether it is HEAD.
    heads: Vec<bool>,
}

/// Sends a case's requests to a proxy in front of this resource, and reads what comes.
pub(super) async fn exchange(case: &Case, to: SocketAddr, recorder: &Recorder, quiet: Duration) -> Seen {
    recorder.begin(case.answers.clone());
    let stream = TcpStream::connect(to).await.unwrap();
    let _ = stream.set_nodelay(true);
    let heads = case.requests.iter().map(|request| request.is_head()).collect();
    let mut client = Client { stream, recorder, quiet, read: Vec::new(), ended: false, heads };
    client.send(case).await;
    if !client.ended {
        client.read_until(|_| false).await;
    }
    if !client.ended {
        // It waits for more. A client that says that there is none is usually closed.
        let _ = client.stream.shutdown().await;
        client.read_until(|_| false).await;
    }
    let (answers, partial, fault) = client.parse();
    drop(client);
    // What the end of the client's connection ends at the resource.
    if case.cut.is_some() {
        let before = recorder.activity();
        pause().await;
        if recorder.activity() != before {
            pause().await;
        }
    }
    Seen { resource: recorder.end(), answers, partial, fault, settled: true }
}

// === impl Client ===

impl Client<'_> {
    async fn send(&mut self, case: &Case) {
        let mut left = case.cut.unwrap_or(usize::MAX);
        let mut all = Vec::new();
        for (number, request) in case.requests.iter().enumerate() {
            let bytes = request.bytes();
            let bytes = &bytes[..bytes.len().min(left)];
            left -= bytes.len();
            if !case.in_turn {
                all.extend_from_slice(bytes);
                continue;
            }
            if number > 0 {
                self.read_until(|answers| answers >= number).await;
                self.recorder.wait_until_written().await;
            }
            self.write(bytes, case.pieces.map(|seed| seed.wrapping_add(number as u64))).await;
        }
        if !case.in_turn {
            self.write(&all, case.pieces).await;
        }
    }

    /// Reads as it writes: neither end may wait for the other.
    async fn write(&mut self, bytes: &[u8], pieces: Option<u64>) {
        let (mut from, mut to) = self.stream.split();
        let write = async {
            for (number, piece) in cut(bytes, pieces).into_iter().enumerate() {
                if number > 0 {
                    pause().await;
                }
                // An error: the other end wants no more of it.
                if timeout(self.quiet * 10, to.write_all(piece)).await.is_err() {
                    return;
                }
            }
        };
        let (read, ended) = (&mut self.read, &mut self.ended);
        let read = async {
            loop {
                match from.read_buf(read).await {
                    Ok(1..) => {}
                    _ => {
                        *ended = true;
                        std::future::pending::<()>().await;
                    }
                }
            }
        };
        tokio::select! {
            () = write => {}
            () = read => {}
        }
    }

    /// Reads until so many answers are whole, the connection has ended, or nothing happens.
    async fn read_until(&mut self, enough: impl Fn(usize) -> bool) {
        loop {
            if self.ended || enough(self.parse().0.len()) {
                return;
            }
            let before = self.recorder.activity();
            match timeout(self.quiet, self.stream.read_buf(&mut self.read)).await {
                Ok(read) => self.ended = read.unwrap_or(0) == 0,
                Err(_) if self.recorder.activity() == before => return,
                Err(_) => {}
            }
        }
    }

    /// Whether an answer is one to HEAD: the resource knows, or it is the DLX's own.
    fn is_to_head(&self, number: usize, answer: &[u8]) -> bool {
        match Message::parse(answer, true, true) {
            Ok(Parsed::Whole(_, message)) => match number_of(&message) {
                Some(number) => self.recorder.is_head(number),
                // An answer of the DLX's own says why even where HEAD was asked for: the request could not be read.
                None => self.heads.get(number).is_some_and(|head| *head) && !is_refusal(answer),
            },
            _ => false,
        }
    }

    /// The answers so far: whole ones, a partial one, and what two clients could read differently.
    fn parse(&self) -> (Vec<Message>, Option<Message>, Option<String>) {
        let (mut answers, mut rest) = (Vec::new(), &self.read[..]);
        while !rest.is_empty() {
            match Message::parse(rest, self.is_to_head(answers.len(), rest), self.ended) {
                Ok(Parsed::Whole(len, message)) => {
                    rest = &rest[len..];
                    let switched = message.start.starts_with(b"101");
                    answers.push(message);
                    if switched {
                        break;
                    }
                }
                Ok(Parsed::Head(message)) => return (answers, Some(message), None),
                Ok(Parsed::Nothing) => return (answers, None, None),
                Err(why) => {
                    let fault = format!(
                        "the client got bytes that two parsers could read differently ({why}): {}",
                        rest.escape_ascii()
                    );
                    return (answers, None, Some(fault));
                }
            }
        }
        (answers, None, None)
    }
}

/// Whether this is an answer of the DLX's own to a request that it could not read.
fn is_refusal(answer: &[u8]) -> bool {
    let end = memchr::memmem::find(answer, b"\r\n\r\n").unwrap_or(answer.len());
    answer.starts_with(b"HTTP/1.1 4") && answer[end..].starts_with(b"\r\n\r\n{\"error\":\"")
}
