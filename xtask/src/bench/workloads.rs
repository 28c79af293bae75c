//! What clients do to a proxy whose resource is awake: the rows of the comparison.

use std::net::SocketAddr;

use super::{Part, load::Client};

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// As in the table.
    pub name: &'static str,
    /// Which of a proxy's ports the clients use.
    pub entry: Entry,
    /// What they do.
    pub client: Client,
    /// What the CPU is divided by.
    pub unit: Unit,
    /// The DLX's goal, in times of HAProxy's CPU.
    pub reach: Option<f64>,
}

/// A proxy's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// HTTP for all hosts.
    Http,
    /// HTTP for one resource alone, as the port of an intercepted Service: the DLX leaves forwarding fields as they are.
    Own,
    /// HTTP/2 without TLS.
    H2c,
    /// Bytes to one resource.
    Tcp,
}

/// Where a proxy listens. `None`: it does not take such clients.
#[derive(Clone, Copy, Debug)]
pub struct Entries {
    pub http: SocketAddr,
    pub own: SocketAddr,
    pub h2c: Option<SocketAddr>,
    pub tcp: Option<SocketAddr>,
}

/// What the CPU is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Microseconds per request.
    Request,
    /// Milliseconds per GiB; each request moves one MiB.
    Gibibyte,
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// 64 kept connections that ask for 24 bytes.
const SMALL: Client = Client::Wrk { connections: 64, path: "/", upload: 0, close: false };

// === impl Entries ===

impl Entries {
    /// The address for one kind of clients.
    pub fn address(&self, entry: Entry) -> Option<SocketAddr> {
        match entry {
            Entry::Http => Some(self.http),
            Entry::Own => Some(self.own),
            Entry::H2c => self.h2c,
            Entry::Tcp => self.tcp,
        }
    }
}

// === impl Part ===

impl Part {
    /// What the part's clients do, if it compares the DLX with other proxies.
    pub fn workload(self) -> Option<Workload> {
        let kept = |connections, path| Client::Wrk { connections, path, upload: 0, close: false };
        let upload = |connections, path, upload| Client::Wrk { connections, path, upload, close: false };
        let once = Client::Wrk { connections: 64, path: "/", upload: 0, close: true };
        let row = |name, entry, client, unit, reach| Some(Workload { name, entry, client, unit, reach });
        let http = |name, client, reach| row(name, Entry::Http, client, Unit::Request, reach);
        let large = |name, entry, client, reach| row(name, entry, client, Unit::Gibibyte, reach);
        match self {
            Self::KeepAlive1 => http("1 keep-alive connection", kept(1, "/"), None),
            Self::KeepAlive64 => http("64 keep-alive connections", SMALL, Some(0.75)),
            Self::KeepAlive512 => http("512 keep-alive connections", kept(512, "/"), Some(0.75)),
            Self::NewConnections => http("a new connection for each request", once, Some(1.1)),
            Self::Download => large("1 MiB down", Entry::Http, kept(8, "/1MiB"), Some(0.8)),
            Self::Upload => large("1 MiB up", Entry::Http, upload(8, "/upload", MIB), Some(0.8)),
            Self::Post => http("POST of 1 KiB, 64 connections", upload(64, "/", KIB), None),
            Self::Chunked => http("chunked answer, 64 connections", kept(64, "/chunked"), None),
            Self::OwnPort => {
                row("the resource's own port, 64 connections", Entry::Own, SMALL, Unit::Request, None)
            }
            Self::H2c => {
                let client = Client::H2load { connections: 8, streams: 32 };
                row(
                    "HTTP/2 without TLS, 8 connections x 32 streams",
                    Entry::H2c,
                    client,
                    Unit::Request,
                    Some(1.2),
                )
            }
            Self::TcpBytes => large("TCP, 1 MiB down", Entry::Tcp, kept(8, "/1MiB"), None),
            Self::TcpMessages => {
                row("TCP, small messages, 64 connections", Entry::Tcp, SMALL, Unit::Request, None)
            }
            Self::Warm
            | Self::Held
            | Self::Burst
            | Self::Bursts
            | Self::Wakes
            | Self::Cold
            | Self::Cluster => None,
        }
    }
}
