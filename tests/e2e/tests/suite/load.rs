//! The load clients, against misbehaving servers: they report as lost what was lost, and nothing else.

use std::{net::SocketAddr, process::Command, sync::atomic::Ordering, time::Duration};

use e2e::{
    binaries,
    journal::Verdict,
    load::{Connection, Exchange, Lines, Lost, Outcome},
    random::{self, Random},
    traffic::{Clients, Shared, Way},
    until,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::oneshot,
    time::Instant,
};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nx-request-id: 1\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nx-request-id: 1\r\nx-run: 7\r\nContent-Length: 2\r\n\r\nok";

async fn stand_in() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test]
async fn an_answer_is_the_resources_only_with_the_requests_id() {
    let (listener, address) = stand_in().await;
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 4096];
        let _ = socket.read(&mut buffer).await;
        socket.write_all(ANSWER).await.unwrap();
        let _ = socket.read(&mut buffer).await;
        socket
            .write_all(
                b"HTTP/1.1 503 x\r\nRetry-After: 1\r\nContent-Length: 19\r\n\r\n{\"reason\":\"asleep\"}",
            )
            .await
            .unwrap();
        let _ = socket.read(&mut buffer).await;
        let _ = socket
            .write_all(b"HTTP/1.1 502 x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n")
            .await;
    });
    let mut connection = Connection::open(address).await.unwrap();
    let Exchange::Answered(response) = connection.send(REQUEST).await else { panic!("no answer") };
    assert_eq!(response.outcome("1"), Outcome::Answered { by: "7".into() });
    assert!(matches!(response.outcome("2"), Outcome::Lost(Lost::Status(200, _))));
    let Exchange::Answered(response) = connection.send(REQUEST).await else { panic!("no answer") };
    assert_eq!(response.outcome("1"), Outcome::Refused { reason: "asleep".into() });
    let Exchange::Answered(response) = connection.send(REQUEST).await else { panic!("no answer") };
    assert_eq!(response.outcome("1"), Outcome::Lost(Lost::Status(502, "no".into())));
}

#[tokio::test]
async fn a_connection_closed_between_two_requests_is_no_loss() {
    let (listener, address) = stand_in().await;
    let (closed, was_closed) = oneshot::channel();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let _ = socket.read(&mut [0; 4096]).await;
        socket.write_all(ANSWER).await.unwrap();
        drop(socket);
        closed.send(()).unwrap();
    });
    let mut connection = Connection::open(address).await.unwrap();
    assert!(matches!(connection.send(REQUEST).await, Exchange::Answered(_)));
    was_closed.await.unwrap();
    connection.stream().readable().await.unwrap();
    assert!(matches!(connection.send(REQUEST).await, Exchange::Unsent));
}

#[tokio::test]
async fn what_was_received_and_not_answered_is_lost() {
    for unread in [false, true] {
        let (listener, address) = stand_in().await;
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            if unread {
                // Closed with the request in its buffer: a reset.
                socket.readable().await.unwrap();
            } else {
                let _ = socket.read(&mut [0; 4096]).await;
            }
        });
        let mut connection = Connection::open(address).await.unwrap();
        let exchange = connection.send(REQUEST).await;
        assert!(matches!(exchange, Exchange::Lost(Lost::NoAnswer(_))), "unread {unread}: {exchange:?}");
    }
}

#[tokio::test]
async fn half_an_answer_is_lost() {
    let (listener, address) = stand_in().await;
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let _ = socket.read(&mut [0; 4096]).await;
        let _ = socket.write_all(&ANSWER[..ANSWER.len() - 1]).await;
    });
    let mut connection = Connection::open(address).await.unwrap();
    assert!(matches!(connection.send(REQUEST).await, Exchange::Lost(Lost::CutShort(_))));
}

/// A close and a request that meet on the way: neither lost by a scaler nor answered. Only the kernel can distinguish them.
#[tokio::test]
async fn a_close_that_crosses_a_request_is_not_taken_for_a_loss() {
    let (listener, address) = stand_in().await;
    let mut lines = Lines::open(address).await.unwrap();
    drop(listener.accept().await.unwrap());
    // Without looking first whether the connection is still usable.
    let outcome = lines.send_blind("1").await;
    assert_eq!(outcome, Outcome::Crossed);

    let mut lines = Lines::open(address).await.unwrap();
    let (mut socket, _) = listener.accept().await.unwrap();
    let (outcome, ()) = tokio::join!(lines.send_blind("1"), async {
        let _ = socket.read(&mut [0; 16]).await;
        drop(socket);
    });
    assert!(matches!(outcome, Outcome::Lost(Lost::NoAnswer(_))), "{outcome:?}");
}

/// No client hides it by connecting once more, or takes it for a close that crossed its request. So many of them that some are
/// closed before they have sent anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_connection_that_is_closed_at_once_is_a_loss_to_every_client() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let front = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let shared = Shared::new(random::seed());
    let end = Instant::now() + Duration::from_millis(500);
    let clients = (0..16).map(|number| {
        let way = Way::new("hello.localhost", vec![front]).lines(vec![front]).pool(2);
        let mut clients = Clients::new(shared.clone(), way);
        tokio::spawn(async move { clients.burst(end, &mut Random::new(1, number)).await })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    let mut others = shared.ledger.all();
    assert!(others.len() > 50, "{others:?}");
    others.retain(|_, outcome| !matches!(outcome, Outcome::Lost(_)));
    assert!(others.is_empty(), "{others:?}");
}

/// The load of the cycles, straight to a service that is not scaled: nothing is lost, until it is killed under it.
#[tokio::test(flavor = "multi_thread")]
async fn the_load_of_the_cycles_finds_what_is_lost_and_nothing_else() {
    for killed in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("journal");
        let port = e2e::ports::claim(&binaries::scratch().join("port"));
        let mut service = Command::new(binaries::own("service"))
            .args(["--port", &port.to_string(), "--journal", &journal.display().to_string()])
            .spawn()
            .unwrap();
        let front = SocketAddr::from(([127, 0, 0, 1], port));
        until("the service to listen", || async {
            Connection::open(front).await.map_err(|error| error.to_string())
        })
        .await;

        let shared = Shared::new(random::seed());
        let mut clients = Clients::new(shared.clone(), Way::new("hello.localhost", vec![front]).pool(3));
        let mut random = Random::new(1, 1);
        let stop = shared.stop.clone();
        let load = tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                clients.burst(Instant::now() + Duration::from_millis(200), &mut random).await;
            }
        });
        let sent = async |count| {
            until("some requests", || async {
                if shared.ledger.len() > count { Ok(()) } else { Err(format!("{}", shared.ledger.len())) }
            })
            .await;
        };
        sent(20).await;
        if killed {
            service.kill().unwrap();
            // However slow the machine: some are sent after that.
            sent(shared.ledger.len() + 5).await;
        }
        shared.stop.store(true, Ordering::Relaxed);
        load.await.unwrap();
        let _ = service.kill();
        service.wait().unwrap();
        let verdict = Verdict::of(&shared.ledger, [e2e::journal::Journal::read(&journal)]);
        println!("killed {killed}: {verdict}");
        assert!(verdict.answered >= 10 && verdict.exact(), "{verdict}");
        assert_eq!(verdict.lost.is_empty(), !killed, "{verdict}");
    }
}
