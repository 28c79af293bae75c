//! A Kubernetes API on this machine, until Ctrl-C: `kubectl --kubeconfig FILE get all`.

use std::{io::Write as _, net::SocketAddr, path::PathBuf};

use anyhow::{Context, Result};
use clap::Parser;
use devcluster::{
    Cluster, Options, User,
    controllers::Controllers,
    node::{Node, NodeOptions},
    proxy::{NO_LAG, ProxyOptions, ServiceProxy},
};

/// A Kubernetes API for tests and for trying things out, with controllers for Deployments, StatefulSets and EndpointSlices.
#[derive(Debug, Parser)]
struct Flags {
    /// Where the API listens; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen_address: SocketAddr,
    /// Folder in which the administrator's kubeconfig is written.
    #[arg(long, default_value = ".")]
    kubeconfig_dir: PathBuf,
    /// Folder of programs that a node runs as pods: the image devcluster/NAME is the program NAME in it. Without it pods stay pending.
    /// Their addresses must be local: `ip route add local 10.244.0.0/16 dev lo`.
    #[arg(long)]
    programs: Option<PathBuf>,
    /// Lead connections to Services' addresses to their endpoints, as a node's kube-proxy does. These addresses, too, must be local:
    /// `ip route add local 10.96.0.0/12 dev lo`.
    #[arg(long)]
    service_proxy: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let flags = Flags::parse();
    let cluster = Cluster::start(Options { address: flags.listen_address, ..Options::default() })?;
    let file = cluster.kubeconfig(&flags.kubeconfig_dir, &User::Admin)?;
    let _controllers = Controllers::start(cluster.client()?);
    let _node = match &flags.programs {
        Some(programs) => {
            Some(Node::start(cluster.client()?, NodeOptions::new(programs, cluster.url())).await?)
        }
        None => None,
    };
    let proxy = ProxyOptions { nodes: 1, lag: NO_LAG, ..ProxyOptions::default() };
    let client = cluster.client()?;
    let _proxy = flags.service_proxy.then(|| ServiceProxy::start(&client, &proxy));
    writeln!(std::io::stdout(), "{} serves; kubectl --kubeconfig {}", cluster.url(), file.display())
        .context("saying where the API is")?;
    tokio::signal::ctrl_c().await.context("waiting for Ctrl-C")
}
