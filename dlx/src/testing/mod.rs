//! A DLX in the test's process, with real sockets, on a fake plugin that the test controls.

pub(crate) mod health;
pub(crate) mod message;
mod net;
pub(crate) mod plugin;
pub(crate) mod service_ports;
pub(crate) mod upstream;

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use daemon::{listen::InheritedSockets, settings::Settings};
pub(crate) use net::{EVENT_TIMEOUT, free_range, local, raw_at};
use plugin::Plugin;
use scaler_types::{ServicePorts, protocol::Rules};
use tokio::{io::AsyncReadExt, net::TcpStream};
use tokio_util::sync::CancellationToken;

use crate::{
    client::Timeouts,
    identify::TrustedProxies,
    listen::{ListenerKind, ServiceListeners, Workers},
    plugin::PluginSource,
    stages::{DlxConfig, Stages},
    state::{HoldLimits, ResourceHandle, ResourceKey},
};

/// A DLX that serves on its own port.
pub(crate) struct Site {
    pub(crate) dlx: Arc<Stages>,
    pub(crate) plugin: Arc<Plugin>,
    pub(crate) address: SocketAddr,
    pub(crate) draining: CancellationToken,
    pub(crate) workers: Workers,
}

/// Options of a site.
pub(crate) struct SiteOptions {
    pub(crate) settings: Settings,
    pub(crate) rules: Rules,
    pub(crate) trusted: &'static [&'static str],
    pub(crate) held: HoldLimits,
    pub(crate) service_ports: Option<ServicePorts>,
    pub(crate) endpoint_propagation_delay: Duration,
    /// Concurrent connections.
    pub(crate) max_connections: usize,
    /// Concurrent wakes.
    pub(crate) wakes: usize,
    /// Bytes that HTTP/2 clients may leave unread.
    pub(crate) unread: usize,
    /// Timeouts of clients.
    pub(crate) timeouts: Timeouts,
    /// Whether plain exchanges are relayed.
    pub(crate) relay: bool,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(30),
            idle: Duration::from_secs(620),
            stall: Duration::from_secs(300),
        }
    }
}

impl Default for DlxConfig {
    /// Without limits and without options.
    fn default() -> Self {
        Self {
            member: "dlx".to_owned(),
            rules: Rules::default(),
            held: HoldLimits { requests: usize::MAX, bytes: u64::MAX },
            wakes: daemon::wakes::DEFAULT,
            endpoint_propagation_delay: Duration::ZERO,
            service_ports: None,
            peers: TrustedProxies::default(),
            default_namespace: None,
            headers: (None, None),
            max_connections: usize::MAX,
            max_unread: usize::MAX,
            timeouts: Timeouts::default(),
            relay: true,
            signalled: CancellationToken::new(),
        }
    }
}

impl Default for SiteOptions {
    fn default() -> Self {
        Self {
            settings: Settings { hold_timeout: EVENT_TIMEOUT, ..Settings::default() },
            rules: Rules::default(),
            trusted: &[],
            held: HoldLimits { requests: 100_000, bytes: 1 << 30 },
            service_ports: None,
            endpoint_propagation_delay: Duration::ZERO,
            wakes: daemon::wakes::DEFAULT,
            max_connections: usize::MAX,
            unread: usize::MAX,
            timeouts: Timeouts::default(),
            relay: true,
        }
    }
}

impl Site {
    pub(crate) async fn start(plugin: Arc<Plugin>, options: SiteOptions) -> Self {
        let dlx = Arc::new(Stages::new(DlxConfig {
            member: "test-1".to_owned(),
            rules: options.rules,
            held: options.held,
            wakes: options.wakes,
            endpoint_propagation_delay: options.endpoint_propagation_delay,
            service_ports: options.service_ports,
            peers: TrustedProxies::new(options.trusted.iter().map(|text| text.parse().unwrap()).collect()),
            max_connections: options.max_connections,
            max_unread: options.unread,
            timeouts: options.timeouts,
            relay: options.relay,
            ..DlxConfig::default()
        }));
        let draining = dlx.server.draining.clone();
        let service = match options.service_ports {
            Some(ports) => {
                let report = |why| panic!("{why}");
                let any = "::".parse().unwrap();
                Some(ServiceListeners::bind(ports, any, &InheritedSockets::default(), report).await)
            }
            None => None,
        };
        let source = PluginSource::new(plugin.clone(), Arc::new(options.settings), Default::default());
        dlx.plugins.follow_source(source.clone());
        dlx.plugins.set_sources(vec![source]);
        dlx.plugins.listed().await;
        let workers = Workers::start(&dlx.server, 2).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        workers.listen(listener, draining.clone(), ListenerKind::Shared).unwrap();
        if let Some(service) = service {
            service.serve(&dlx.server, &workers).unwrap();
        }
        Self { dlx, plugin, address, draining, workers }
    }

    /// A resource of the plugin.
    pub(crate) fn resource(&self, name: &str) -> Arc<ResourceHandle> {
        self.dlx.resources.get(&ResourceKey { kind: "test".into(), id: plugin::id(name) }).unwrap()
    }

    /// Whether it knows such a resource.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.dlx.resources.get(&ResourceKey { kind: "test".into(), id: plugin::id(name) }).is_some()
    }

    /// Whether it is ready, or the text that says why not.
    pub(crate) fn ready(&self) -> Result<(), String> {
        self.dlx.ready().map_err(|error| error.to_string())
    }

    /// A connection to the DLX.
    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes and reads until the DLX closes the connection.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> String {
        raw_at(self.address, bytes).await
    }

    /// A GET on one of its service ports, on a connection of its own.
    pub(crate) async fn get_at(&self, port: u16, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        raw_at(local(port), request.as_bytes()).await
    }

    /// A GET on a connection of its own.
    pub(crate) async fn get(&self, host: &str, path: &str) -> String {
        self.raw(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes()).await
    }
}

/// Reads until the end; whether that was a reset.
pub(crate) async fn is_reset(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    let end = tokio::time::timeout(EVENT_TIMEOUT, stream.read_to_end(&mut rest)).await.expect("an end");
    assert!(rest.is_empty(), "{rest:?}");
    end.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
}

/// The same for a connection on which nothing is sent. An immediate reset may already fail the connect.
pub(crate) async fn resets(address: SocketAddr) -> bool {
    match TcpStream::connect(address).await {
        Ok(mut stream) => is_reset(&mut stream).await,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

/// Waits until `is` returns true; checks again at intervals.
pub(crate) async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + EVENT_TIMEOUT;
    while !is() {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        #[expect(
            clippy::disallowed_methods,
            reason = "nothing signals the event; the time it takes is not asserted"
        )]
        tokio::time::sleep_until(tokio::time::Instant::now() + Duration::from_millis(2)).await;
    }
}

/// The status of an answer.
pub(crate) fn status(answer: &str) -> u16 {
    answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or_else(|| panic!("no answer: {answer:?}"))
}

/// The body of an answer.
pub(crate) fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

/// A header of an answer.
pub(crate) fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let head = answer.split("\r\n\r\n").next()?;
    head.lines().find_map(|line| {
        let (own, value) = line.split_once(':')?;
        own.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
