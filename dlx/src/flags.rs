//! The DLX's flags.

use std::{net::SocketAddr, time::Duration};

use daemon::{
    flags::CommonFlags,
    listen::parse_address,
    namespace_file::parse_bytes,
    settings::{FlagSettings, MultiTargetStrategy},
};

use crate::{client::Timeouts, identify::Network};

/// Holds the requests of sleeping resources, wakes them, and proxies.
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "dlx", version, about)]
pub struct Flags {
    /// What both daemons take.
    #[command(flatten)]
    pub common: CommonFlags,
    /// Where requests arrive.
    #[arg(long, default_value = ":8090", value_parser = parse_address)]
    pub listen_address: SocketAddr,
    /// Where /healthz, /readyz, /metrics and /api/v1 are.
    #[arg(long, default_value = ":8091", value_parser = parse_address)]
    pub admin_address: SocketAddr,
    /// A header that names the resource, when it comes from a trusted proxy.
    #[arg(long)]
    pub target_name_header: Option<String>,
    /// A header whose value stands before the request's path, when a header names the resource.
    #[arg(long)]
    pub target_path_header: Option<String>,
    /// The resources' port, where a plugin gives a host alone.
    #[arg(long)]
    pub target_port: Option<u16>,
    /// How long a wake may take.
    #[arg(long, value_parser = scaler_types::duration::parse)]
    pub resource_readiness_timeout: Option<Duration>,
    /// Which of two named resources gets a request.
    #[arg(long)]
    pub multi_target_strategy: Option<MultiTargetStrategy>,
    /// Addresses and networks (10.0.0.0/8) whose X-Forwarded-* and target headers are believed. X-Forwarded-* of others is
    /// replaced; without this flag on the shared port alone.
    #[arg(long, value_delimiter = ',')]
    pub trusted_proxies: Vec<Network>,
    /// Requests held at once, of all resources together.
    #[arg(long, default_value_t = 100_000)]
    pub max_held_requests: usize,
    /// Bytes held at once, of all resources together, those in the sockets included.
    #[arg(long, default_value = "1GiB", value_parser = parse_bytes)]
    pub max_held_bytes: u64,
    /// Bytes of answers that HTTP/2 clients have not taken yet, of all together; beyond it connections of the namespace that has
    /// most are closed, those with most first.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = parse_bytes)]
    pub max_unread_bytes: u64,
    /// How long a client may take for a request's head, from its first byte.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_timeout)]
    pub client_head_timeout: Duration,
    /// How long a client's connection may be idle, between requests and before the first.
    #[arg(long, value_name = "DURATION", default_value = "620s", value_parser = parse_timeout)]
    pub client_idle_timeout: Duration,
    /// How long a client may stall: send nothing of a body that the resource waits for, or take nothing of an answer.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse_timeout)]
    pub client_stall_timeout: Duration,
}

/// Less is less than what a network may take.
const LEAST_TIMEOUT: Duration = Duration::from_secs(1);

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let timeout = scaler_types::duration::parse(text).map_err(|error| error.to_string())?;
    if timeout < LEAST_TIMEOUT {
        return Err(format!("{text} is too short: give 1s or more"));
    }
    Ok(timeout)
}

// === impl Flags ===

impl Flags {
    /// How long clients may take.
    pub fn timeouts(&self) -> Timeouts {
        Timeouts {
            head: self.client_head_timeout,
            idle: self.client_idle_timeout,
            stall: self.client_stall_timeout,
        }
    }

    /// What they set for the resources.
    pub fn settings(&self) -> FlagSettings {
        FlagSettings {
            target_port: self.target_port,
            target_name_header: self.target_name_header.clone(),
            target_path_header: self.target_path_header.clone(),
            resource_readiness_timeout: self.resource_readiness_timeout,
            multi_target_strategy: self.multi_target_strategy,
            ..FlagSettings::default()
        }
    }
}
