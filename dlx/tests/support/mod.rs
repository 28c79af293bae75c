//! A DLX in the test's process, with real sockets, on a made-up plugin that the test moves by hand.
#![allow(dead_code, reason = "every test binary uses its own part")]

pub mod health;
pub mod led;
pub mod message;
pub mod plugin;
pub mod upstream;

use std::{
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use daemon::{listen::InheritedSockets, settings::Settings};
use dlx::{
    Accepted, DlxConfig, HoldLimits, Listener, ListenerKind, PluginSource, ResourceHandle, ResourceKey,
    ServiceListeners, Stages, Timeouts, TrustedProxies, Workers,
};
use plugin::Plugin;
use scaler_types::{ServicePorts, protocol::Rules};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

/// How long an event may take before the test gives up on it.
pub const EVENT_TIMEOUT: Duration = Duration::from_secs(30);

/// A DLX that serves on a port of its own.
pub struct Site {
    pub dlx: Arc<Stages>,
    pub plugin: Arc<Plugin>,
    pub address: SocketAddr,
    pub draining: CancellationToken,
    pub workers: Workers,
}

/// What differs from the defaults.
pub struct Given {
    pub settings: Settings,
    pub rules: Rules,
    pub trusted: &'static [&'static str],
    pub held: HoldLimits,
    pub service_ports: Option<ServicePorts>,
    pub endpoint_propagation_delay: Duration,
    /// Connections at once.
    pub places: usize,
    /// Wakes at once.
    pub wakes: usize,
    /// Bytes that clients of HTTP/2 may leave unread.
    pub unread: usize,
    /// How long clients may take.
    pub timeouts: Timeouts,
}

impl Default for Given {
    fn default() -> Self {
        Self {
            settings: Settings { hold_timeout: EVENT_TIMEOUT, ..Settings::default() },
            rules: Rules::default(),
            trusted: &[],
            held: HoldLimits { requests: 100_000, bytes: 1 << 30 },
            service_ports: None,
            endpoint_propagation_delay: Duration::ZERO,
            wakes: daemon::wakes::DEFAULT,
            places: usize::MAX,
            unread: usize::MAX,
            timeouts: Timeouts::default(),
        }
    }
}

impl Site {
    pub async fn start(plugin: Arc<Plugin>, given: Given) -> Self {
        let dlx = Arc::new(Stages::new(DlxConfig {
            member: "test-1".to_owned(),
            rules: given.rules,
            held: given.held,
            wakes: given.wakes,
            endpoint_propagation_delay: given.endpoint_propagation_delay,
            service_ports: given.service_ports,
            peers: TrustedProxies::new(given.trusted.iter().map(|text| text.parse().unwrap()).collect()),
            places: given.places,
            most_unread: given.unread,
            timeouts: given.timeouts,
            ..DlxConfig::default()
        }));
        let draining = dlx.server.draining.clone();
        let service = match given.service_ports {
            Some(ports) => {
                let say = |why| panic!("{why}");
                let any = "::".parse().unwrap();
                Some(ServiceListeners::bind(ports, any, &InheritedSockets::default(), say).await)
            }
            None => None,
        };
        let source =
            PluginSource::new(plugin.clone(), "test", "demo", Arc::new(given.settings), Default::default());
        dlx.plugins.follow_source(source.clone());
        dlx.plugins.set_sources(vec![source]);
        dlx.plugins.listed().await;
        let workers = Workers::start(&dlx.server, 2).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (hand, stop) = (workers.clone(), draining.clone());
        let taken = move |stream, peer, place| {
            hand.hand(Accepted { stream, peer, door: ListenerKind::Shared, place })
        };
        tokio::spawn(Listener::new(listener).unwrap().accept(stop, dlx.server.places.clone(), taken));
        if let Some(service) = service {
            service.serve(&dlx.server, &workers).unwrap();
        }
        Self { dlx, plugin, address, draining, workers }
    }

    /// A resource of the plugin's.
    pub fn entry(&self, name: &str) -> Arc<ResourceHandle> {
        self.dlx.resources.get(&ResourceKey { kind: "test".into(), id: plugin::id(name) }).unwrap()
    }

    /// A connection to the DLX.
    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes and reads until the DLX closes the connection.
    pub async fn raw(&self, bytes: &[u8]) -> String {
        raw_at(self.address, bytes).await
    }

    /// A GET on one of its service ports, on a connection of its own.
    pub async fn get_at(&self, port: u16, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        raw_at(local(port), request.as_bytes()).await
    }

    /// A GET on a connection of its own.
    pub async fn get(&self, host: &str, path: &str) -> String {
        self.raw(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes()).await
    }
}

/// Sends bytes and reads until the other side closes the connection.
pub async fn raw_at(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(EVENT_TIMEOUT, stream.read_to_end(&mut answer)).await.expect("an answer").unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads until the end; whether that was a break.
pub async fn is_reset(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    let end = tokio::time::timeout(EVENT_TIMEOUT, stream.read_to_end(&mut rest)).await.expect("an end");
    assert!(rest.is_empty(), "{rest:?}");
    end.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
}

/// The same of a connection on which nothing is said. One that breaks at once may be told so to the call that connects.
pub async fn resets(address: SocketAddr) -> bool {
    match TcpStream::connect(address).await {
        Ok(mut stream) => is_reset(&mut stream).await,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

/// A port of this host.
pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A range of ports that were free a moment ago, below those of outgoing connections.
pub fn free_range(count: u16) -> ServicePorts {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    // Tests run side by side, in this process and in others: none is given what another one is about to bind.
    let given = GIVEN.fetch_add(count, Ordering::SeqCst);
    let mut first = 10_000 + (std::process::id() as u16 % 500) * 40 + given;
    loop {
        let ports = ServicePorts { first, last: first + count - 1 };
        let bound: Result<Vec<_>, _> = ports.all().map(|port| TcpListener::bind(("::", port))).collect();
        match bound {
            Ok(_) => return ports,
            Err(_) => first = if first > 30_000 { 10_000 } else { ports.last + 1 },
        }
    }
}

/// Waits until `true`, looking whenever the resource changes and, for what changes unseen, now and then.
pub async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + EVENT_TIMEOUT;
    while !is() {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        #[expect(
            clippy::disallowed_methods,
            reason = "what is waited for tells nobody; the time it takes is not asserted"
        )]
        tokio::time::sleep_until(tokio::time::Instant::now() + Duration::from_millis(2)).await;
    }
}

/// The status of an answer.
pub fn status(answer: &str) -> u16 {
    answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or_else(|| panic!("no answer: {answer:?}"))
}

/// The body of an answer.
pub fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

/// A header of an answer.
pub fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let head = answer.split("\r\n\r\n").next()?;
    head.lines().find_map(|line| {
        let (own, value) = line.split_once(':')?;
        own.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
