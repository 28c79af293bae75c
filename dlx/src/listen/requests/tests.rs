use std::{
    convert::Infallible,
    future::poll_fn,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use proptest::{prelude::*, sample::select};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::client::{ConnectionProgress, ConnectionSlots, Timeouts};

const BOTH: &[u8] =
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";

async fn connected() -> (TcpStream, Requests) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    client.set_nodelay(true).unwrap();
    let socket = Socket::new(listener.accept().await.unwrap().0);
    let progress = ConnectionProgress::new(Timeouts::default(), ConnectionSlots::new(1, usize::MAX));
    (client, Requests::new(socket.clone(), Timed::new(socket, progress), Vec::new()))
}

/// The bytes that can be read when these were sent.
async fn read(requests: &mut Requests, mut sent: usize, all: &mut Vec<u8>) {
    let socket = requests.socket.clone();
    while sent > 0 {
        socket.stream().readable().await.unwrap();
        let before = unread(&socket);
        loop {
            let mut bytes = [0; 64];
            let mut buffer = ReadBuf::new(&mut bytes);
            match poll_fn(|cx| Poll::Ready(Pin::new(&mut *requests).poll_read(cx, &mut buffer))).await {
                Poll::Ready(read) => {
                    read.unwrap();
                    assert!(!buffer.filled().is_empty(), "an end");
                    all.extend_from_slice(buffer.filled());
                }
                Poll::Pending => break,
            }
        }
        sent -= before - unread(&socket).min(before);
    }
}

fn unread(socket: &Socket) -> usize {
    let mut bytes = [0; 1024];
    use rustix::net::{RecvFlags, recv};
    recv(socket.stream(), bytes.as_mut_slice(), RecvFlags::PEEK | RecvFlags::DONTWAIT)
        .map_or(0, |(_, len)| len)
}

#[tokio::test]
async fn a_head_in_two_parts_is_checked_as_a_whole() {
    let before: &[u8] = b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nabcd";
    for cut in 1..BOTH.len() {
        let (mut client, mut requests) = connected().await;
        let mut all = Vec::new();
        for piece in [&[before, &BOTH[..cut]].concat()[..], &BOTH[cut..]] {
            client.write_all(piece).await.unwrap();
            read(&mut requests, piece.len(), &mut all).await;
        }
        assert_eq!(
            String::from_utf8_lossy(&all),
            String::from_utf8_lossy(&[before, IN_PLACE].concat()),
            "{cut}"
        );
        assert!(requests.socket.refusal().is_some_and(|refusal| refusal.reason.contains("both")), "{cut}");
    }
}

#[tokio::test]
async fn bytes_after_a_protocol_switch_wait_for_its_answer() {
    let switch: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    for (switched, behind, expected) in [
        (true, &b"\0\x01\x02"[..], &b"\0\x01\x02"[..]),
        (false, b"\0\x01\x02", IN_PLACE),
        (false, switch, switch),
    ] {
        let (mut client, mut requests) = connected().await;
        let (mut all, sent) = (Vec::new(), [switch, behind].concat());
        client.write_all(&sent).await.unwrap();
        read(&mut requests, sent.len(), &mut all).await;
        assert_eq!(all, switch);
        requests.socket.decide(switched);
        let mut bytes = [0; 1024];
        let mut buffer = ReadBuf::new(&mut bytes);
        poll_fn(|cx| Pin::new(&mut requests).poll_read(cx, &mut buffer)).await.unwrap();
        assert_eq!(buffer.filled(), expected);
    }
}

/// The requests that hyper reads: target, version, and the error of the body.
async fn hyper_reads(bytes: Vec<u8>) -> (Vec<(String, Version, Option<String>)>, String) {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let noted = noted.clone();
        async move {
            let (target, version) = (request.uri().path().to_owned(), request.version());
            let wrong = request.into_body().collect().await.err().map(|error| format!("{error:?}"));
            noted.lock().unwrap().push((target, version, wrong));
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    client.write_all(&bytes).await.unwrap();
    let serving = tokio::spawn(
        http1::Builder::new()
            .half_close(true)
            .max_buf_size(head::MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(server), service),
    );
    client.shutdown().await.unwrap();
    let mut answers = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut client, &mut answers).await.unwrap();
    let _ = serving.await.unwrap();
    let seen = seen.lock().unwrap().clone();
    (seen, answers)
}

fn chunked() -> impl Strategy<Value = String> {
    let data =
        select(vec!["a", "0\r\n\r\n", "GET /body HTTP/1.1\r\nHost: a\r\n\r\n", "\r\n", "0123456789abcdef"]);
    let extension = select(vec!["", "", ";x", " ", "\t;x=\"0\"", ";\u{fc}"]);
    let chunk = (data, extension.clone())
        .prop_map(|(data, extension)| format!("{:X}{extension}\r\n{data}\r\n", data.len()));
    let trailers = select(vec!["", "", "T: r\r\n", "T: r\r\nU: s\r\n"]);
    (prop::collection::vec(chunk, 0..4), extension, trailers).prop_map(|(chunks, extension, trailers)| {
        format!("{}000{extension}\r\n{trailers}\r\n", chunks.concat())
    })
}

fn message() -> impl Strategy<Value = String> {
    let known = select(vec!["", "x", "GET /body HTTP/1.1\r\nHost: a\r\n\r\n", "0\r\n\r\n"]);
    let known = known.prop_map(|body| format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    let chunked = chunked().prop_map(|body| format!("Transfer-Encoding: chunked\r\n\r\n{body}"));
    let begin = select(vec!["", "", "\r\n", "\n"]);
    let first = select(vec![
        "GET / HTTP/1.1\r\n",
        "POST /?x HTTP/1.1\r\n",
        "PUT http://a/ HTTP/1.1\n",
        "OPTIONS * HTTP/1.1\r\n",
    ]);
    let fields = select(vec!["Host: a\r\n", "host:a:80 \r\nX-Y:\t\u{fc}\r\n"]);
    (begin, first, fields, prop_oneof![known, chunked, Just("\r\n".to_owned())])
        .prop_map(|(begin, first, fields, rest)| format!("{begin}{first}{fields}{rest}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..Default::default() })]

    /// hyper takes everything that is passed on, and finds the same requests in it; also with one byte changed.
    #[test]
    fn requests_begin_and_end_where_hyper_reads_them(
        messages in prop::collection::vec(message(), 1..4),
        changed in prop::option::of((any::<prop::sample::Index>(), select(b"\r\n 0aX:;\0\xff/".to_vec()))),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = messages.concat().into_bytes();
        if let Some((at, byte)) = changed {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let (mut framing, mut in_pieces) = (Framing::new(), Framing::new());
        let (passed, stop) = framing.follow(&bytes);
        let (first, early) = in_pieces.follow(&bytes[..cut.index(bytes.len())]);
        let second = match early {
            Stop::Refused(_) | Stop::Broken => 0,
            _ => in_pieces.follow(&bytes[first..]).0,
        };
        prop_assert_eq!(first + second, passed, "in pieces");
        prop_assert!(changed.is_some() || passed == bytes.len() && framing.is_at_head(), "{:?}", stop);

        let at_head = framing.is_at_head();
        let mut passed = bytes[..passed].to_vec();
        if at_head {
            passed.extend_from_slice(b"GET /last HTTP/1.1\r\nHost: a\r\n\r\n");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (seen, answers) = runtime.block_on(hyper_reads(passed));
        prop_assert!(!answers.contains("HTTP/1.1 4"), "{:?} {}", seen, answers);
        // With a byte changed a body may begin earlier.
        prop_assert!(changed.is_some() || seen.iter().all(|(target, ..)| target != "/body"), "{:?}", seen);
        let ends = seen.iter().any(|(_, version, _)| *version == Version::HTTP_10);
        let (last, _, wrong) = seen.last().unwrap();
        // Trailers that are none are hyper's to find: it ends the connection.
        let is_wrong = wrong.as_ref().is_some_and(|error| error.contains("Invalid"));
        prop_assert!(ends || !at_head || is_wrong || (last == "/last" && wrong.is_none()), "{:?}", seen);
        prop_assert!(at_head || wrong.is_some(), "{:?} {:?}", stop, seen);
    }
}
