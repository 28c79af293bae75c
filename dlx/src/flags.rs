//! The DLX's flags.

use std::{net::SocketAddr, time::Duration};

use daemon::{
    flags::CommonFlags,
    listen::parse_address,
    settings::{DlxOptions, SettingsLayer, parse_bytes},
};
use scaler_types::duration::{self, NotADuration};

use crate::{client::Timeouts, identify::Network};

/// Holds the requests of sleeping resources, wakes them, and proxies.
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "dlx", version, about)]
pub struct DlxFlags {
    /// What both daemons take.
    #[command(flatten)]
    pub common: CommonFlags,
    /// Where requests arrive: a port is all addresses, of IPv4 and IPv6; its address is also that of the `--service-ports`.
    ///
    /// Services are led to it by the families it listens on.
    #[arg(long, value_name = "ADDRESS", default_value = ":8090", value_parser = parse_address)]
    pub(crate) listen_address: SocketAddr,
    /// Where /healthz, /readyz, /metrics and /api/v1 are.
    ///
    /// From loopback only a `Host` that no web site has is answered: an address, `localhost`, a name without a dot, or a
    /// Service's (`NAME.NAMESPACE.svc`).
    #[arg(long, value_name = "ADDRESS", default_value = ":8091", value_parser = parse_address)]
    pub(crate) admin_address: SocketAddr,
    /// What a namespace file can set, too.
    #[command(flatten)]
    pub(crate) options: DlxOptions,
    /// Addresses and networks (10.0.0.0/8) whose X-Forwarded-* and target headers are believed.
    ///
    /// X-Forwarded-* of others is replaced; without this flag on the shared port alone (README.md, Who the client is).
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub(crate) trusted_proxies: Vec<Network>,
    /// Requests held, of all resources together.
    ///
    /// A namespace may hold as many as are still free, where there are several: so one alone can fill half of it, and the next
    /// one finds room.
    #[arg(long, value_name = "COUNT", default_value_t = 100_000)]
    pub(crate) max_held_requests: usize,
    /// Bytes held, of all resources together; shared out in the same way.
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse_bytes)]
    pub(crate) max_held_bytes: u64,
    /// Bytes of answers that HTTP/2 clients have not taken yet, of all together.
    ///
    /// Beyond it connections are closed: of the namespace that has most, those with the most. One connection may have 4 MiB,
    /// and then one piece for each stream.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = parse_bytes)]
    pub(crate) max_unread_bytes: u64,
    /// How long a client may take for a request's head, from its first byte; then its connection is closed. 1s or more.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_timeout)]
    pub(crate) client_head_timeout: Duration,
    /// How long a client's connection may be idle, between two requests and before the first. Longer than the load balancer in
    /// front keeps its own.
    #[arg(long, value_name = "DURATION", default_value = "620s", value_parser = parse_timeout)]
    pub(crate) client_idle_timeout: Duration,
    /// How long a client may stall: send nothing of an HTTP/1 request's body that the resource waits for while no answer has
    /// begun (then 408), or take nothing of an answer (then its connection or stream ends).
    ///
    /// A body that goes on after its answer has ended is in flight until nothing of it has passed to the resource for so long.
    /// What the resource does not say stalls nobody; connections that were upgraded are left alone.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse_timeout)]
    pub(crate) client_stall_timeout: Duration,
}

/// Less is less than what a network may take.
const MIN_TIMEOUT: Duration = Duration::from_secs(1);

/// A text that is no timeout.
#[derive(Debug, thiserror::Error)]
enum InvalidTimeout {
    #[error(transparent)]
    NotADuration(#[from] NotADuration),
    #[error("{0} is too short: give 1s or more")]
    TooShort(String),
}

fn parse_timeout(text: &str) -> Result<Duration, InvalidTimeout> {
    let timeout = duration::parse(text)?;
    if timeout < MIN_TIMEOUT {
        return Err(InvalidTimeout::TooShort(text.to_owned()));
    }
    Ok(timeout)
}

// === impl DlxFlags ===

impl DlxFlags {
    /// How long clients may take.
    pub(crate) fn timeouts(&self) -> Timeouts {
        Timeouts {
            head: self.client_head_timeout,
            idle: self.client_idle_timeout,
            stall: self.client_stall_timeout,
        }
    }

    /// What they set for the resources.
    pub(crate) fn settings(&self) -> SettingsLayer {
        let mut settings = SettingsLayer::default();
        self.options.clone().apply(&mut settings);
        settings
    }
}
