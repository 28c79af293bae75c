//! Detects a client's protocol by the first bytes that it sends. They stay in the socket.

use std::{io, mem::MaybeUninit};

use rustix::{
    io::Errno,
    net::{RecvFlags, recv},
};
use tokio::{io::Interest, time::timeout_at};

use crate::{
    client::{ConnectionProgress, Socket},
    identify::chunks::is_token,
};

/// An HTTP/2 client's first bytes (RFC 9113 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How many of the first bytes are examined: to recognize a request by its first line, and a whole head that may be held.
/// No other protocol begins with a longer line; longer heads, and heads in several parts, are held by the HTTP server.
const MAX_PEEKED: usize = 4096;
/// The longest method. (WebDAV's longest has 17 letters.)
const MAX_METHOD: usize = 32;

/// The protocol of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientProtocol {
    /// HTTP/1, or something that is refused as bad HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Another protocol.
    Other,
}

/// Waits for the first bytes and detects the protocol. `guessed`: that the port speaks HTTP is only a guess. `examine` gets
/// the first bytes of HTTP/1, which stay in the socket.
///
/// Also waits for a client that expects the server to speak first. `None`: it took too long.
pub(crate) async fn detect_protocol(
    socket: &Socket,
    guessed: bool,
    progress: &ConnectionProgress,
    mut examine: impl FnMut(&[u8]),
) -> Option<ClientProtocol> {
    loop {
        let readable = socket.stream().ready(Interest::READABLE);
        let readable = match progress.deadline(None) {
            Some((deadline, _)) => timeout_at(deadline, readable).await.ok()?,
            None => readable.await,
        };
        let Ok(ready) = readable else { return Some(ClientProtocol::Http1) };
        match peek_protocol(socket, guessed, &mut examine) {
            Some(protocol) => return Some(protocol),
            None if !ready.is_read_closed() => {
                progress.note_bytes();
                socket.clear();
            }
            None if guessed => return Some(ClientProtocol::Other),
            None => return Some(ClientProtocol::Http1),
        }
    }
}

/// Not `async`: a waiting task must not carry the buffer.
fn peek_protocol(socket: &Socket, guessed: bool, examine: &mut impl FnMut(&[u8])) -> Option<ClientProtocol> {
    let mut buffer = [MaybeUninit::uninit(); MAX_PEEKED];
    match recv(socket.stream(), &mut buffer, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((_, 0)) => Some(ClientProtocol::Http1),
        Ok(((seen, _), _)) => {
            let protocol = classify(seen, guessed);
            if protocol == Some(ClientProtocol::Http1) {
                examine(seen);
            }
            protocol
        }
        Err(Errno::AGAIN | Errno::INTR) => None,
        Err(error) => {
            tracing::trace!(error = %io::Error::from(error), "connection failed");
            Some(ClientProtocol::Http1)
        }
    }
}

/// The protocol that begins with these bytes; `None`: more of them are needed.
fn classify(seen: &[u8], guessed: bool) -> Option<ClientProtocol> {
    if seen.starts_with(PREFACE) {
        return Some(ClientProtocol::Http2);
    }
    if PREFACE.starts_with(seen) {
        return None;
    }
    if !guessed {
        return Some(ClientProtocol::Http1);
    }
    // Empty lines may precede a request (RFC 9112 2.2).
    let begin = seen.iter().position(|byte| !matches!(byte, b'\r' | b'\n'))?;
    let (line, ends) = match memchr::memchr(b'\n', &seen[begin..]) {
        Some(end) => (&seen[begin..begin + end], true),
        None => (&seen[begin..], false),
    };
    let text = line.strip_suffix(b"\r").unwrap_or(line);
    let method = text.iter().position(|byte| !is_token(*byte)).unwrap_or(text.len());
    let may_be_method = (1..=MAX_METHOD).contains(&method) && matches!(text.get(method), None | Some(b' '));
    let is_text = !text.iter().any(u8::is_ascii_control);
    if !may_be_method || !is_text {
        return Some(ClientProtocol::Other);
    }
    match ends {
        true if has_version(text) => Some(ClientProtocol::Http1),
        true => Some(ClientProtocol::Other),
        false if seen.len() >= MAX_PEEKED => Some(ClientProtocol::Http1),
        false => None,
    }
}

/// Whether a line ends as a request's does.
fn has_version(line: &[u8]) -> bool {
    match line.split_last_chunk::<9>() {
        Some((_, [b' ', b'H', b'T', b'T', b'P', b'/', major, b'.', minor])) => {
            major.is_ascii_digit() && minor.is_ascii_digit()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_protocols_are_told_from_http() {
        use ClientProtocol::{Http1, Http2, Other};
        let long = format!("GET /{}", "x".repeat(MAX_PEEKED));
        for (bytes, expected) in [
            (PREFACE, Some(Http2)),
            (b"PRI * HT", None),
            (b"PRI * HTTP/2.0\r\n\r\nno", Some(Http1)),
            (b"GET / HTTP/1.1\r\n", Some(Http1)),
            (b"\r\n\r\nget http://a/ HTTP/1.0\n", Some(Http1)),
            (b"GET / HTTP/9.9\r\n", Some(Http1)),
            (b"GET a b c HTTP/1.1\r\n", Some(Http1)),
            (long.as_bytes(), Some(Http1)),
            (b"\r\n", None),
            (b"G", None),
            (b"GET /x HTTP/1.1", None),
            // TLS, PostgreSQL (a start, and the question for TLS), MongoDB, AMQP, MQTT, Kafka, Cassandra.
            (b"\x16\x03\x01\x02\x00\x01", Some(Other)),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", Some(Other)),
            (b"\0\0\0\x54\0\x03\0\0user\0", Some(Other)),
            (b"A\x01\0\0\x01\0\0\0", Some(Other)),
            (b"AMQP\0\0\x09\x01", Some(Other)),
            (b"\x10\x0e\0\x04MQTT", Some(Other)),
            (b"\0\0\0\x1a\0\x12\0\x03", Some(Other)),
            (b"\x04\0\0\0\x05", Some(Other)),
            // Redis, memcached, NATS, STOMP, SSH, the PROXY protocol, IRC, and HTTP/0.9.
            (b"*1\r\n$4\r\nPING\r\n", Some(Other)),
            (b"PING\r\n", Some(Other)),
            (b"get key\r\n", Some(Other)),
            (b"CONNECT {\"verbose\":false}\r\n", Some(Other)),
            (b"CONNECT\naccept-version:1.2\n", Some(Other)),
            (b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n", Some(Other)),
            (b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nGET / HTTP/1.1\r\n", Some(Other)),
            (b"\r\n\r\n\0\r\nQUIT\n", Some(Other)),
            (b":irc JOIN #a\r\n", Some(Other)),
            (b"GET /\r\n", Some(Other)),
            (b"GET\t/ HTTP/1.1\r\n", Some(Other)),
        ] {
            assert_eq!(classify(bytes, true), expected, "{}", bytes.escape_ascii());
            // Where these bytes are not enough, more may not be either.
            let strict = classify(bytes, false);
            assert!(strict == Some(Http1) || strict == expected, "{}: {strict:?}", bytes.escape_ascii());
        }
    }
}
