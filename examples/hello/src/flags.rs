//! What can be asked of it.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::Parser;

/// A small HTTP service to be scaled.
#[derive(Parser)]
#[command(version)]
pub struct Flags {
    /// The port to listen on.
    #[arg(long)]
    pub port: u16,
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    pub bind: IpAddr,
    /// A port for the TCP echo service: what is sent comes back, each line is journalled.
    #[arg(long)]
    pub tcp_port: Option<u16>,
    /// How long to take before listening, as in 500ms.
    #[arg(long, default_value = "0s", value_parser = scaler_types::duration::parse)]
    pub start_delay: Duration,
    /// How long each greeting takes.
    #[arg(long, default_value = "0s", value_parser = scaler_types::duration::parse)]
    pub answer_delay: Duration,
    /// A file to append to: a line "start PID", then a line "request ID" for each request with an x-request-id.
    #[arg(long)]
    pub journal: Option<PathBuf>,
    /// What it calls itself.
    #[arg(long, alias = "text", default_value = "hello")]
    pub name: String,
}
