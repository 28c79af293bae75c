//! A Kubernetes API on this machine, until Ctrl-C: `kubectl --kubeconfig FILE get all`.

use std::{io::Write as _, net::SocketAddr, path::PathBuf};

use anyhow::{Context, Result};
use clap::Parser;
use devcluster::{Cluster, Options, User};

/// A Kubernetes API for tests and for trying things out.
#[derive(Debug, Parser)]
struct Flags {
    /// Where the API listens; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen_address: SocketAddr,
    /// Folder in which the administrator's kubeconfig is written.
    #[arg(long, default_value = ".")]
    kubeconfig_dir: PathBuf,
}

fn main() -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let flags = Flags::parse();
    let cluster = Cluster::start(Options { address: flags.listen_address, ..Options::default() })?;
    let file = cluster.kubeconfig(&flags.kubeconfig_dir, &User::Admin)?;
    writeln!(std::io::stdout(), "{} serves; kubectl --kubeconfig {}", cluster.url(), file.display())
        .context("saying where the API is")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("starting a runtime")?.block_on(tokio::signal::ctrl_c()).context("waiting for Ctrl-C")
}
