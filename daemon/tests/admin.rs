//! The admin server over real sockets, byte for byte.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use daemon::{
    admin::{self, Admin, Peer},
    telemetry,
};
use http::{Method, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Starts one with two routes of its own.
async fn serve(token: Option<&str>) -> (SocketAddr, Arc<AtomicBool>) {
    let ready = Arc::new(AtomicBool::new(true));
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let says = Arc::clone(&ready);
    let admin = Admin::new(telemetry::registry("dlx"), token.map(Into::into))
        .route(
            Method::GET,
            "/api/v1/who",
            Arc::new(|request| {
                let Peer(peer) = *request.extensions().get::<Peer>().unwrap();
                let answer = admin::json(StatusCode::OK, &serde_json::json!({ "peer": peer.ip() }));
                Box::pin(async move { answer })
            }),
        )
        .route(
            Method::POST,
            "/api/v1/wake",
            Arc::new(|request| {
                let answer =
                    admin::json(StatusCode::OK, &serde_json::json!({ "bytes": request.body().len() }));
                Box::pin(async move { answer })
            }),
        )
        .ready_when(
            "dlx",
            Arc::new(move || match says.load(Ordering::Relaxed) {
                true => Ok(()),
                false => Err("draining".to_owned()),
            }),
        );
    tokio::spawn(admin.serve(listener));
    (address, ready)
}

/// Sends `request` (with `Connection: close` in it) and reads to the end.
async fn ask(address: SocketAddr, request: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn get(address: SocketAddr, path: &str) -> String {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await
}

async fn post(address: SocketAddr, headers: &str, body: &str) -> String {
    let length = body.len();
    let head = format!(
        "POST /api/v1/wake HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}"
    );
    ask(address, &format!("{head}\r\n{body}")).await
}

#[tokio::test]
async fn the_routes_that_every_daemon_has() {
    let (address, ready) = serve(None).await;
    assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200 OK\r\n"));
    let answer = get(address, "/metrics").await;
    assert!(answer.contains("\nscaler_ready{daemon=\"dlx\"} 1\n"), "{answer}");
    ready.store(false, Ordering::Relaxed);
    let answer = get(address, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("\r\n\r\ndraining\n"), "{answer}");
    let answer = get(address, "/metrics").await;
    assert!(answer.contains("\nscaler_ready{daemon=\"dlx\"} 0\n"), "{answer}");
    assert!(
        answer.contains("scaler_build_info{daemon=\"dlx\",version=\"") && answer.ends_with("# EOF\n"),
        "{answer}"
    );
    let answer = get(address, "/?a=b").await;
    let routes = ["GET /healthz", "GET /readyz", "GET /metrics", "POST /api/v1/wake", "GET /api/v1/who"];
    let routes = serde_json::json!({ "routes": routes }).to_string();
    assert!(answer.ends_with(&format!("\r\n\r\n{routes}\n")), "{answer}");
}

#[tokio::test]
async fn what_is_not_there_is_refused_in_json() {
    let (address, _) = serve(None).await;
    let answer = get(address, "/api/v2/who").await;
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("\"error\":\"not found\""), "{answer}");
    let answer = ask(address, "DELETE /api/v1/wake HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("\r\nallow: POST\r\n"), "{answer}");
    let answer = ask(address, "POST /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("\r\nallow: GET\r\n"), "{answer}");
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let (address, _) = serve(None).await;
    for path in ["/healthz", "/metrics", "/api/v1/who", "/"] {
        let get = get(address, path).await;
        let head =
            ask(address, &format!("HEAD {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
        let heads = |answer: &str| {
            let head = answer.split_once("\r\n\r\n").unwrap().0;
            head.lines().filter(|line| !line.starts_with("date:")).map(str::to_owned).collect::<Vec<_>>()
        };
        assert!(head.ends_with("\r\n\r\n"), "{path}: {head}");
        assert_eq!(heads(&head), heads(&get), "{path}");
    }
}

#[tokio::test]
async fn a_write_wants_the_token() {
    let (address, _) = serve(Some("s3cret")).await;
    for wrong in [
        "",
        "Authorization: Bearer s3cres\r\n",
        "Authorization: Bearer s3cret1\r\n",
        "Authorization: Basic s3cret\r\n",
        "Authorization: s3cret\r\n",
    ] {
        let answer = post(address, wrong, "").await;
        assert!(
            answer.starts_with("HTTP/1.1 401 ") && answer.contains("\r\nwww-authenticate: Bearer\r\n"),
            "{wrong}: {answer}"
        );
    }
    for right in ["Authorization: Bearer s3cret\r\n", "authorization: bearer s3cret\r\n"] {
        assert!(post(address, right, "").await.starts_with("HTTP/1.1 200 "), "{right}");
    }
    assert!(get(address, "/api/v1/who").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn without_a_token_writes_come_from_loopback_and_from_no_web_page() {
    let (address, _) = serve(None).await;
    assert!(post(address, "", "").await.starts_with("HTTP/1.1 200 "));
    let answer = post(address, "Origin: http://evil.example\r\n", "").await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    // What a header says about the client is never believed, neither for nor against it.
    let answer = ask(
        address,
        "GET /api/v1/who HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 9.9.9.9\r\nForwarded: for=9.9.9.9\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(answer.ends_with("{\"peer\":\"127.0.0.1\"}\n"), "{answer}");
}

#[tokio::test]
async fn a_body_has_a_limit() {
    let (address, _) = serve(None).await;
    let answer = post(address, "", &"a".repeat(1 << 20)).await;
    assert!(answer.ends_with("{\"bytes\":1048576}\n"), "{answer}");
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head = "POST /api/v1/wake HTTP/1.1\r\nHost: a\r\nContent-Length: 1048577\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    // One that does not say so is cut off where it is too long.
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head = "POST /api/v1/wake HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n100001\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(&[b'a'; (1 << 20) + 1]).await.unwrap();
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

/// The clock moves whenever all wait: so these end at once, and never if there were no limit.
#[tokio::test(start_paused = true)]
async fn a_slow_client_is_not_waited_for() {
    let (address, _) = serve(None).await;
    // Half a head: closed, with no answer or 408.
    let answer = ask(address, "GET /healthz HTTP/1.1\r\nHost:").await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
    // Half a body.
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head = "POST /api/v1/wake HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello";
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
}

/// More than there is room for: whoever has something to ask is answered all the same, at once and by a connection that was
/// opened before.
#[tokio::test]
async fn idle_connections_lock_nobody_out() {
    let (address, _) = serve(None).await;
    let mut used = TcpStream::connect(address).await.unwrap();
    let mut idle = Vec::new();
    for _ in 0..1100 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    let answer = ask(address, "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    // The first that came was closed, the last was not.
    assert_eq!(used.read(&mut [0; 1]).await.unwrap(), 0);
    let last = idle.last_mut().unwrap();
    last.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    last.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

/// A page that had its own name point at this host.
#[tokio::test]
async fn a_page_whose_name_leads_here_reads_nothing() {
    let (address, _) = serve(Some("secret")).await;
    for path in ["/", "/metrics", "/readyz", "/api/v1/who", "/none"] {
        let ask_as = async |host: &str| {
            ask(address, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await
        };
        let refused = ask_as("attacker.example:8092").await;
        assert!(refused.starts_with("HTTP/1.1 403 ") && refused.contains("attacker.example"), "{refused}");
        for host in ["localhost:8092", "127.0.0.1", "scaler-dlx.scaler.svc"] {
            let answer = ask_as(host).await;
            assert!(!answer.starts_with("HTTP/1.1 403 "), "{host}: {answer}");
        }
    }
}
