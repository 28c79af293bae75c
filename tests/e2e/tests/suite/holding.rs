//! What is held, and what it costs.

use std::{fs, net::SocketAddr, path::PathBuf};

use e2e::{
    Daemon, Namespace, Service, Site,
    journal::Journal,
    load::{Connection, Exchange, Response, get, once},
    processes, until,
};
use tokio::io::AsyncWriteExt as _;

/// A resource that comes up only when it is let.
struct Shut {
    site: Site,
    service: Service,
    open: PathBuf,
}

impl Shut {
    fn new(name: &str, dlx: &[&str]) -> Self {
        let site = Site::new(name);
        let open = site.folder().join("open");
        let service = Service::new(&site, "hello").arguments(&["--start-after", &open.display().to_string()]);
        let namespace = Namespace::new("demo").window("1m").with(&service);
        site.configure(&dlx.iter().fold(namespace, |namespace, line| namespace.dlx(line)));
        Self { site, service, open }
    }

    fn open(&self) {
        fs::write(&self.open, "").unwrap();
    }

    /// A request that is answered when it is.
    fn ask(&self, id: &str) -> tokio::task::JoinHandle<Response> {
        let (front, request) = (self.site.front(), get("hello.localhost", "/", id));
        tokio::spawn(async move { once(front, &request).await.expect("an answer") })
    }
}

async fn held(dlx: &Daemon, count: usize) {
    until(&format!("{count} requests to be held"), || async {
        let resource = dlx.resource("demo", "hello").await;
        if resource["held"] == count { Ok(()) } else { Err(resource.to_string()) }
    })
    .await;
}

async fn half_a_request(front: SocketAddr, text: &str) -> Connection {
    let mut connection = Connection::open(front).await.unwrap();
    connection.stream().write_all(text.as_bytes()).await.unwrap();
    connection
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_hold_answers_503_and_a_client_that_leaves_frees_its_place() {
    let shut = Shut::new("full-", &["maxHeldRequests: 2"]);
    let dlx = shut.site.dlx().await;
    let first = half_a_request(
        shut.site.front(),
        "GET / HTTP/1.1\r\nHost: hello.localhost\r\nx-request-id: left\r\n\r\n",
    )
    .await;
    held(&dlx, 1).await;
    let second = shut.ask("second");
    held(&dlx, 2).await;

    let refused = once(shut.site.front(), &get("hello.localhost", "/", "third")).await.expect("an answer");
    assert_eq!(refused.status, 503, "{}", refused.text());
    let wait: u32 = refused.header("retry-after").expect("Retry-After").parse().expect("seconds");
    assert!(wait > 0);
    assert_eq!(refused.header("content-type"), Some("application/json"));
    let body = refused.json();
    assert!(body["error"].is_string() && body["reason"].is_string(), "{body}");
    assert_eq!(body["resource"], "demo/hello");

    drop(first);
    held(&dlx, 1).await;
    let fourth = shut.ask("fourth");
    held(&dlx, 2).await;
    shut.open();
    assert_eq!(second.await.unwrap().status, 200);
    assert_eq!(fourth.await.unwrap().status, 200);
    let journal = Journal::read(&shut.service.journal);
    assert_eq!(journal.requests.keys().collect::<Vec<_>>(), ["fourth", "second"]);
}

/// hyper does not look at the socket while a body is unread: the DLX must.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_with_its_body_unread_frees_its_place() {
    let shut = Shut::new("unread-", &["maxHeldRequests: 1"]);
    let dlx = shut.site.dlx().await;
    let head = "POST /sink HTTP/1.1\r\nHost: hello.localhost\r\nContent-Length: 100000\r\n\r\n";
    let mut client = half_a_request(shut.site.front(), head).await;
    client.stream().write_all(&[b'x'; 10_000]).await.unwrap();
    held(&dlx, 1).await;
    drop(client);
    held(&dlx, 0).await;
    let next = shut.ask("next");
    held(&dlx, 1).await;
    shut.open();
    assert_eq!(next.await.unwrap().status, 200);
}

/// A request that is not answered in `holdTimeout` gets a 503; the wake it began goes on without it.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_held_too_long_is_answered_503_and_its_wake_goes_on() {
    let shut = Shut::new("timeout-", &["holdTimeout: 500ms"]);
    let dlx = shut.site.dlx().await;
    let refused = shut.ask("early").await.unwrap();
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    assert_eq!(refused.json()["resource"], "demo/hello");
    held(&dlx, 0).await;
    shut.open();
    shut.site.state_is("demo", "hello", "active").await;
    assert_eq!(shut.ask("late").await.unwrap().status, 200);
    let journal = Journal::read(&shut.service.journal);
    assert_eq!(journal.starts.len(), 1, "starts");
    assert_eq!(journal.requests.keys().collect::<Vec<_>>(), ["late"]);
}

/// A body of 1 GiB waits in its client, not in the DLX.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_one_gib_to_a_sleeping_resource_is_streamed_with_memory_flat() {
    const LENGTH: u64 = 1 << 30;
    const BOUND: u64 = 64 << 20;
    let shut = Shut::new("gib-", &["holdTimeout: 5m"]);
    let dlx = shut.site.dlx().await;
    // One small request first, held and answered: what every first request costs is not this body's.
    let before = processes::peak_memory(dlx.pid());
    let head = format!(
        "POST /sink HTTP/1.1\r\nHost: hello.localhost\r\nx-request-id: big\r\nContent-Length: {LENGTH}\r\n\r\n"
    );
    let mut client = half_a_request(shut.site.front(), &head).await;
    let piece = vec![b'x'; 1 << 20];
    let mut sent = 0;
    // As much as the sockets take while the resource sleeps.
    while let Ok(count) = client.stream().try_write(&piece) {
        sent += count as u64;
    }
    held(&dlx, 1).await;
    assert!(sent < LENGTH / 4, "{sent} bytes were taken while it slept");
    shut.open();
    while sent < LENGTH {
        let part = piece.len().min((LENGTH - sent) as usize);
        client.stream().write_all(&piece[..part]).await.unwrap();
        sent += part as u64;
    }
    let response = client.receive().await.expect("an answer");
    assert_eq!((response.status, response.text().trim()), (200, &*LENGTH.to_string()));
    let grown = processes::peak_memory(dlx.pid()) - before;
    println!("the DLX's peak memory grew by {} KiB", grown / 1024);
    assert!(grown < BOUND, "the DLX's peak memory grew by {grown} bytes");
}

/// The connection goes on after a 503 for a request without a body.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_outlives_a_refusal() {
    let shut = Shut::new("refusal-", &["holdTimeout: 300ms"]);
    let _dlx = shut.site.dlx().await;
    let mut client = Connection::open(shut.site.front()).await.unwrap();
    let Exchange::Answered(refused) = client.send(&get("hello.localhost", "/", "1")).await else {
        panic!("lost")
    };
    assert_eq!(refused.status, 503);
    shut.open();
    shut.site.state_is("demo", "hello", "active").await;
    let Exchange::Answered(answer) = client.send(&get("hello.localhost", "/", "2")).await else {
        panic!("lost")
    };
    assert_eq!(answer.status, 200);
}
