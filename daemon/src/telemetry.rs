//! Logs and metrics.

use std::io::{self, IsTerminal};

use prometheus_client::{metrics::info::Info, registry::Registry};
use tracing_subscriber::EnvFilter;

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// A line of text per event, for people.
    Text,
    /// A JSON object per line, for what collects logs.
    Json,
}

/// What is logged when RUST_LOG says nothing. kube logs every call that failed as an error of its own; whoever made the
/// call says what it means, and once.
const DEFAULT: &str = "info,kube_client::client::builder=off";

/// Installs the process's log subscriber: filter from RUST_LOG, default info, to standard error.
///
/// # Panics
///
/// When called a second time.
pub fn init(format: LogFormat) {
    let given = std::env::var("RUST_LOG").unwrap_or_default();
    let (filter, refused) = match EnvFilter::builder().parse(if given.is_empty() { DEFAULT } else { &given })
    {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(DEFAULT), Some(error)),
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().flatten_event(true).with_current_span(false).init(),
    }
    if let Some(error) = refused {
        tracing::warn!(RUST_LOG = given, %error, "RUST_LOG is no filter (as in info,dlx=debug): logging at info");
    }
}

/// A registry that knows which build this is (`scaler_build_info`). `daemon`: `autoscaler` or `dlx`.
pub fn registry(daemon: &'static str) -> Registry {
    let mut registry = Registry::with_prefix("scaler");
    registry.register(
        "build",
        "Which build this is",
        Info::new([("daemon", daemon), ("version", env!("CARGO_PKG_VERSION"))]),
    );
    registry
}
