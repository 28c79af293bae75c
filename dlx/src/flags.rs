//! The DLX's flags.

use std::{net::SocketAddr, time::Duration};

use daemon::{
    completion::Completion,
    exit,
    flags::CommonFlags,
    listen::parse_address,
    settings::{DlxOptions, SettingsLayer, parse_bytes},
};
use scaler_types::duration::{self, NotADuration};

use crate::{client::Timeouts, identify::Network};

/// Holds the requests of sleeping resources, wakes them, and proxies.
///
/// The DLX (the name, from dead-letter exchange, is v3io/scaler's) is the proxy in front of your resources. A request for a
/// resource that is asleep waits there until the resource is awake; all others are forwarded at once. It counts the requests of
/// each resource, by which the autoscaler decides what is idle.
#[derive(clap::Parser, Clone, Debug)]
#[command(
    name = "dlx",
    version,
    about,
    args_conflicts_with_subcommands = true,
    subcommand_value_name = "COMMAND",
    after_long_help = "A first signal (SIGTERM, SIGINT) stops it once its requests are answered, a second one at once.\n\
        Exit status: 0 success, 64 bad flags, 78 bad configuration or no plugin, 1 anything else.\n\n\
        Example:\n  dlx --config demo.yaml --listen-address 127.0.0.1:8090"
)]
pub struct DlxFlags {
    /// What to do instead of running as the daemon.
    #[command(subcommand)]
    command: Option<Command>,
    /// What both daemons take.
    #[command(flatten)]
    pub common: CommonFlags,
    /// The address on which the DLX accepts requests; a port alone is all IPv4 and IPv6 addresses.
    ///
    /// The `--service-ports` are bound on the same address. Its families (IPv4, IPv6) decide which of the pod's addresses are
    /// written to the endpoints of intercepted Services.
    #[arg(long, value_name = "ADDRESS", default_value = ":8090", value_parser = parse_address)]
    pub(crate) listen_address: SocketAddr,
    /// The address of the admin port: /healthz, /readyz, /metrics and /api/v1.
    ///
    /// Requests from loopback must have a `Host` that no web site has: an address, `localhost`, a name without a dot, or a
    /// Service's name (`NAME.NAMESPACE.svc`).
    #[arg(long, value_name = "ADDRESS", default_value = ":8091", value_parser = parse_address)]
    pub(crate) admin_address: SocketAddr,
    /// What a namespace file can set, too.
    #[command(flatten)]
    pub(crate) options: DlxOptions,
    /// Addresses and networks, as in 10.0.0.0/8, whose X-Forwarded-* and target headers are trusted.
    ///
    /// X-Forwarded-* from others is replaced; without this flag only on the shared port (docs/reference/forwarded-headers.md).
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub(crate) trusted_proxies: Vec<Network>,
    /// How many requests are held at once, for all resources together; further requests get 503 (`too_many_held`).
    ///
    /// Of several namespaces each may have at most as many as are still free, so one alone can use half and leaves room for
    /// others.
    #[arg(long, value_name = "COUNT", default_value_t = 100_000)]
    pub(crate) max_held_requests: usize,
    /// How many bytes of requests are held at once, for all resources together; shared between namespaces in the same way.
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse_bytes)]
    pub(crate) max_held_bytes: u64,
    /// How many bytes of responses that HTTP/2 clients have not read yet are buffered, for all clients together.
    ///
    /// Beyond it the DLX closes connections: of the namespace with the most bytes, those with the most. One connection may have
    /// 4 MiB, and then one piece for each stream.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = parse_bytes)]
    pub(crate) max_unread_bytes: u64,
    /// How long a client may take to send a request's head, from its first byte; then its connection is closed. 1s or more.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_timeout)]
    pub(crate) client_head_timeout: Duration,
    /// How long a client's connection may be idle before the first request and between two. Give more than the idle timeout of
    /// the load balancer in front. 1s or more.
    #[arg(long, value_name = "DURATION", default_value = "620s", value_parser = parse_timeout)]
    pub(crate) client_idle_timeout: Duration,
    /// How long a client may stall: send no more of an HTTP/1 request's body before the response has begun (then 408), or read
    /// nothing of a response (then its connection or stream is closed). 1s or more.
    ///
    /// A body that continues after its response has ended counts as in flight until nothing of it has reached the resource
    /// for this time. A slow resource does not count as a stalled client; upgraded connections have no such limit.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse_timeout)]
    pub(crate) client_stall_timeout: Duration,
}

/// What `dlx` does instead of running as a daemon.
#[derive(clap::Subcommand, Clone, Debug)]
enum Command {
    #[command(
        after_long_help = "Example:\n  dlx completion bash > ~/.local/share/bash-completion/completions/dlx"
    )]
    Completion(Completion),
}

/// A network alone can take longer than less.
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
    /// Runs the command that these flags name, if any, and exits.
    pub fn run_command(&self) {
        if let Some(Command::Completion(completion)) = &self.command {
            completion.print::<Self>();
            exit::end_with(0);
        }
    }

    /// The timeouts of clients.
    pub(crate) fn timeouts(&self) -> Timeouts {
        Timeouts {
            head: self.client_head_timeout,
            idle: self.client_idle_timeout,
            stall: self.client_stall_timeout,
        }
    }

    /// What these flags set for every namespace file.
    pub(crate) fn settings(&self) -> SettingsLayer {
        let mut settings = SettingsLayer::default();
        self.options.clone().apply(&mut settings);
        settings
    }
}
