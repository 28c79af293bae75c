//! Held TCP connections: dispatched, left, refused, and what happens to their two directions.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use daemon::settings::Settings;
use scaler_types::{Endpoint, Phase, Port, Probe, Protocol, ScaleError, ScaleResource};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Semaphore, watch},
    time::timeout,
};

use crate::{
    state::ResourceHandle,
    testing::{
        EVENT_TIMEOUT, Site, SiteOptions, free_range, is_reset, local,
        plugin::{Plugin, endpoint},
        resets, until, upstream,
    },
};

/// A site with a sleeping resource that comes up at `address` when the test lets it.
struct Asleep {
    site: Site,
    handle: Arc<ResourceHandle>,
    port: u16,
    up: watch::Sender<bool>,
}

impl Asleep {
    async fn start(address: SocketAddr, settings: Settings) -> Self {
        let ports = free_range(1);
        let (up, may) = watch::channel(false);
        let plugin = Plugin::waking(move |_| match *may.borrow() {
            // Not probed: a probe would be another connection.
            true => Ok(vec![Endpoint { probe: Probe::Listed, ..endpoint(address) }]),
            false => Err(ScaleError::Retry { after: Duration::from_millis(5), reason: "not yet".to_owned() }),
        });
        plugin.add("a", |resource| {
            resource.record.phase = Phase::Asleep;
            resource.ports =
                vec![Port { listen: ports.first, target: None, protocol: Protocol::Tcp, guessed: false }];
            let window_size = Duration::from_millis(50);
            resource.scale_resources =
                vec![ScaleResource { metric_name: "requests".to_owned(), window_size, threshold: 0.0 }];
        });
        let options = SiteOptions { settings, service_ports: Some(ports), ..SiteOptions::default() };
        let site = Site::start(plugin, options).await;
        Self { handle: site.resource("a"), site, port: ports.first, up }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(local(self.port)).await.unwrap()
    }

    /// Connects until this many are held.
    async fn held(&self, count: usize) -> TcpStream {
        let stream = self.connect().await;
        until("held", || self.handle.queue.len() == count).await;
        stream
    }

    fn wakes(&self) {
        self.up.send_replace(true);
    }
}

fn patient() -> Settings {
    Settings { hold_timeout: EVENT_TIMEOUT, ..Settings::default() }
}

async fn read(stream: &mut TcpStream) -> String {
    let mut all = String::new();
    timeout(EVENT_TIMEOUT, stream.read_to_string(&mut all)).await.expect("an end").unwrap();
    all
}

/// MySQL, SMTP, SSH: the client waits for the server's first word.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_speaks_first_is_woken_without_a_byte_of_the_client() {
    let address = upstream::raw(|mut stream, _| async move {
        stream.write_all(b"220 ready\r\n").await.unwrap();
        let mut line = [0; 6];
        stream.read_exact(&mut line).await.unwrap();
        assert_eq!(&line, b"QUIT\r\n");
        stream.write_all(b"221 bye\r\n").await.unwrap();
    })
    .await;
    let asleep = Asleep::start(address, patient()).await;
    let mut stream = asleep.held(1).await;
    asleep.wakes();
    let mut banner = [0; 11];
    timeout(EVENT_TIMEOUT, stream.read_exact(&mut banner)).await.expect("a banner").unwrap();
    assert_eq!(&banner, b"220 ready\r\n");
    stream.write_all(b"QUIT\r\n").await.unwrap();
    assert_eq!(read(&mut stream).await, "221 bye\r\n");
    until("it is over", || asleep.handle.counts.in_flight() == 0).await;
    assert_eq!((asleep.handle.counts.total(), asleep.handle.queue.bytes()), (1, 0));
}

/// Its bytes and its half-close reach the resource when it is up; the answer comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_half_closes_while_held_gets_its_answer() {
    let address = upstream::raw(|mut stream, _| async move {
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.unwrap();
        stream.write_all(&received).await.unwrap();
    })
    .await;
    let asleep = Asleep::start(address, patient()).await;
    let mut stream = asleep.held(1).await;
    stream.write_all(b"a whole question").await.unwrap();
    stream.shutdown().await.unwrap();
    asleep.wakes();
    assert_eq!(read(&mut stream).await, "a whole question");
}

/// No byte moved for longer than the window; then the client half-closes, and the resource takes its time.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_on_an_idle_connection_is_passed_on_and_the_answer_comes_back() {
    static MAY: Semaphore = Semaphore::const_new(0);
    let address = upstream::raw(|mut stream, _| async move {
        let mut received = String::new();
        stream.read_to_string(&mut received).await.unwrap();
        MAY.acquire().await.unwrap().forget();
        stream.write_all(received.as_bytes()).await.unwrap();
    })
    .await;
    let asleep = Asleep::start(address, patient()).await;
    let mut stream = asleep.connect().await;
    stream.write_all(b"late").await.unwrap();
    asleep.wakes();
    let handle = &asleep.handle;
    until("it moves", || handle.counts.in_flight() == 1).await;
    until("it rests", || handle.counts.in_flight() == 0).await;
    stream.shutdown().await.unwrap();
    // A half-close neither wakes a resource nor keeps it awake.
    MAY.add_permits(1);
    assert_eq!(read(&mut stream).await, "late");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_while_held_frees_its_reservation() {
    let asleep = Asleep::start(local(1), patient()).await;
    for bytes in [&b""[..], b"a question"] {
        let mut stream = asleep.held(1).await;
        stream.write_all(bytes).await.unwrap();
        stream.set_zero_linger().unwrap();
        drop(stream);
        until("left", || asleep.handle.queue.is_empty()).await;
        let totals = &asleep.site.dlx.shared.totals;
        assert_eq!((asleep.handle.queue.bytes(), totals.requests(), totals.bytes()), (0, 0, 0));
    }
    assert_eq!(asleep.handle.counts.in_flight(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn held_for_too_long_is_reset() {
    let settings = Settings { hold_timeout: Duration::from_millis(100), ..Settings::default() };
    let asleep = Asleep::start(local(1), settings).await;
    let mut stream = asleep.connect().await;
    stream.write_all(b"a question").await.unwrap();
    assert!(is_reset(&mut stream).await, "ended instead of reset");
    until("nothing is held", || asleep.handle.queue.is_empty()).await;
    assert_eq!(asleep.handle.queue.rejections()[1], ("held_too_long", 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_above_the_limits_are_reset() {
    for settings in [
        Settings { max_held_requests: 2, ..patient() },
        // Two times what a socket takes in.
        Settings { max_held_bytes: 2 * 64 * 1024, ..patient() },
    ] {
        let address = upstream::tcp_echo().await;
        let asleep = Asleep::start(address, settings).await;
        let mut two = [asleep.held(1).await, asleep.held(2).await];
        assert!(resets(local(asleep.port)).await);
        assert_eq!(asleep.handle.queue.rejections()[0], ("too_many_held", 1));
        asleep.wakes();
        for stream in &mut two {
            stream.write_all(b"x").await.unwrap();
            assert_eq!(timeout(EVENT_TIMEOUT, stream.read_u8()).await.expect("an echo").unwrap(), b'x');
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wake_that_cannot_succeed_resets_held_and_new_connections() {
    let ports = free_range(1);
    let plugin = Plugin::waking(|_| Err(ScaleError::Terminal { reason: "no such image".to_owned() }));
    plugin.add("a", |resource| {
        resource.record.phase = Phase::Asleep;
        resource.ports =
            vec![Port { listen: ports.first, target: None, protocol: Protocol::Tcp, guessed: false }];
    });
    let options = SiteOptions { settings: patient(), service_ports: Some(ports), ..SiteOptions::default() };
    let site = Site::start(plugin, options).await;
    for _ in 0..2 {
        // The client sends nothing and gets the reset all the same.
        assert!(resets(local(ports.first)).await);
    }
    assert_eq!(site.plugin.set_scales.load(Ordering::SeqCst), 1, "the cause is remembered");
}

/// Half an answer is not taken for a whole one.
#[tokio::test(flavor = "multi_thread")]
async fn a_reset_by_the_resource_is_a_reset_for_its_client() {
    let address = upstream::raw(|mut stream, _| async move {
        stream.read_u8().await.unwrap();
        stream.set_zero_linger().unwrap();
    })
    .await;
    let asleep = Asleep::start(address, patient()).await;
    asleep.wakes();
    let mut stream = asleep.connect().await;
    stream.write_all(b"x").await.unwrap();
    assert!(is_reset(&mut stream).await);
}

/// And the reverse: a transaction whose client broke off must not look complete.
#[tokio::test(flavor = "multi_thread")]
async fn a_reset_by_the_client_is_a_reset_for_its_resource() {
    let (ends, mut ended) = tokio::sync::mpsc::unbounded_channel();
    let address = upstream::raw(move |mut stream, _| {
        let ends = ends.clone();
        async move {
            stream.read_u8().await.unwrap();
            stream.write_u8(b'y').await.unwrap();
            ends.send(is_reset(&mut stream).await).unwrap();
        }
    })
    .await;
    let asleep = Asleep::start(address, patient()).await;
    asleep.wakes();
    let mut stream = asleep.connect().await;
    stream.write_all(b"x").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'y');
    stream.set_zero_linger().unwrap();
    drop(stream);
    assert_eq!(timeout(EVENT_TIMEOUT, ended.recv()).await.expect("an end"), Some(true));
}

/// Dispatched connections that are not connected yet keep their permits; the others wait.
#[tokio::test(flavor = "multi_thread")]
async fn held_connections_are_dispatched_at_the_pace_at_which_they_connect() {
    // It takes in one connection; the next one's call to connect waits.
    let full = socket_that_takes(0);
    let address = full.local_addr().unwrap();
    let fill = TcpStream::connect(address).await.unwrap();
    let settings = Settings { slow_start_requests_per_endpoint: 1, ..patient() };
    let asleep = Asleep::start(address, settings).await;
    let _held = [asleep.held(1).await, asleep.held(2).await];
    asleep.wakes();
    until("one is let go", || asleep.handle.counts.in_flight() == 1).await;
    assert!(asleep.handle.queue.has_waiting(), "both at once");
    drop((fill, full));
}

/// A listening socket whose backlog takes this many connections plus one, and that is never accepted from.
fn socket_that_takes(backlog: i32) -> std::net::TcpListener {
    use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &local(0)).unwrap();
    listen(&socket, backlog).unwrap();
    socket.into()
}
