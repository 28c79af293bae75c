//! Flags both daemons take.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::builder::OsStringValueParser;
use scaler_types::{Coordination, ServicePorts};

use crate::{
    cluster, shutdown,
    telemetry::{LogFormat, ResourceMetrics},
    token::Token,
    wakes,
};

/// Flattened into each daemon's own flags.
#[derive(clap::Args, Clone, Debug)]
pub struct CommonFlags {
    /// The namespace to look after when no file is given; `*` is all.
    ///
    /// Without it: the namespace of the pod the daemon runs in, else `default`. With --config each file names its own.
    #[arg(long, env = "SCALER_NAMESPACE", value_name = "NAMESPACE")]
    pub namespace: Option<String>,

    /// The kubeconfig of the cluster, for Leases and for plugins that talk to one. Without it: the cluster the daemon runs in.
    // An empty variable is one that is not set, as with kubectl.
    #[arg(long, env = "KUBECONFIG", value_name = "FILE", value_parser = OsStringValueParser::new())]
    kubeconfig_path: Option<OsString>,

    /// The folder of the plugins. Every `*.so` in it is loaded at start, in the order of their names.
    #[arg(long, default_value = "plugins", value_name = "DIR")]
    pub plugins_dir: PathBuf,

    /// How long the plugins may take to be loaded, each by a process that tries it out first.
    ///
    /// One that takes longer, or crashes, is skipped and reported. Each file is logged before.
    #[arg(long, default_value = "30s", value_parser = scaler_types::duration::parse, value_name = "DURATION")]
    pub plugin_load_timeout: Duration,

    /// A namespace file, or a folder of them (`*.yaml`, `*.yml`, in the order of their names).
    ///
    /// May be given several times; each file holds one namespace. Changes are picked up while the daemon runs; a broken one is
    /// reported and the last good one kept. Without it: one namespace with nothing but defaults, see --namespace.
    #[arg(long, value_name = "FILE-or-DIR")]
    pub config: Vec<PathBuf>,

    /// End with status 78 if any plugin cannot be loaded, or any namespace file cannot be used at start.
    ///
    /// Without it such a one is skipped and reported, and only nothing at all to serve ends the daemon.
    #[arg(long)]
    pub strict: bool,

    /// The bearer token that writes on the admin port must carry; read anew when the file changes; without it they are taken
    /// from loopback only.
    #[arg(long, value_name = "FILE")]
    pub admin_token_file: Option<PathBuf>,

    /// Where state is kept that no cluster keeps: records, members and locks. All daemons of one host share it.
    #[arg(long, default_value = "state", value_name = "DIR")]
    pub state_dir: PathBuf,

    /// How the daemons know of each other: `files` (locked ones in `--state-dir`, all on one host), `leases` (in a cluster),
    /// `auto`: `leases` where the daemon runs in a pod, else `files`.
    #[arg(long, value_enum, default_value_t = CoordinateBy::Auto, value_name = "WAY")]
    pub coordinate_by: CoordinateBy,

    /// Ports that every DLX binds for the Services that it intercepts, `20000-21999`; the same for all daemons.
    ///
    /// They are below the ports that the kernel gives to outgoing connections (net.ipv4.ip_local_port_range), and take two
    /// descriptors each, about 1.5 KiB each, and no time. While one of them is in use the DLX is not ready, and says which.
    /// Without it no Service is intercepted, and a workload sleeps only with `scaler.dev/intercept: manual`.
    #[arg(long, value_name = "FIRST-LAST", value_parser = service_ports)]
    pub service_ports: Option<ServicePorts>,

    /// The Service of the daemons' own namespace that leads to the DLXs' `--listen-address`: by it is known which Ingresses and
    /// HTTPRoutes lead to the DLX: a workload with `scaler.dev/intercept: manual` sleeps only behind one of them.
    #[arg(long, default_value = "scaler-dlx", value_name = "NAME")]
    pub dlx_service: String,

    /// How long nodes, ingress controllers and clients may take to follow a change of a Service's endpoints.
    #[arg(long, default_value = "30s", value_parser = scaler_types::duration::parse, value_name = "DURATION")]
    pub endpoint_propagation_delay: Duration,

    /// How many sleeping resources this daemon wakes at once.
    ///
    /// The others wait for their turn, which is shared out fairly between namespaces, and requests go before wakes that nobody
    /// waits for; a request that waits is held as ever. Each daemon counts its own: with three DLXs a cluster sees three times
    /// as many at most. A wake by a DLX counts until its resource answers. One by the autoscaler, or by `autoscaler restore`,
    /// counts until its workload is up (its rollout is complete; where its kind tells no rollout: its Service has a ready
    /// endpoint), for 60 s at most.
    #[arg(long, default_value_t = wakes::DEFAULT, value_parser = at_least_one, value_name = "COUNT")]
    pub max_concurrent_wakes: usize,

    /// `text` or `json`, to standard error; `RUST_LOG` says what is logged.
    ///
    /// Lines that a client can cause at will are limited to 10 at once and one per 10 s for each place in the code (`left_out`
    /// says how many there were between); nothing waits for whoever reads standard error: what 4 MiB do not hold is left out
    /// (`scaler_log_lines_left_out_total`).
    #[arg(long, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    pub log_format: LogFormat,

    /// Which metrics have a series for each resource: those that are not zero (`active`), `all`, `none`.
    #[arg(long, value_enum, default_value_t = ResourceMetrics::Active, value_name = "WHICH")]
    pub resource_metrics: ResourceMetrics,

    /// How long what was begun may take after the first SIGTERM; a second signal ends the daemon at once.
    ///
    /// A DLX that Services are led to goes on taking connections until none is and `--endpoint-propagation-delay` has passed,
    /// for two thirds of this time at most. With `--service-ports` two thirds of it have to be `--endpoint-propagation-delay`
    /// or more, or the DLX warns at its start.
    #[arg(long, default_value = "45s", value_parser = scaler_types::duration::parse, value_name = "DURATION")]
    pub shutdown_grace: Duration,
}

/// What `--coordinate-by` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum CoordinateBy {
    /// By Leases where the daemon runs in a pod, else by files.
    Auto,
    /// By locked files in the state folder.
    Files,
    /// By Leases in the daemon's own namespace.
    Leases,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "expected a number, 1 at least".to_owned())
}

fn service_ports(text: &str) -> Result<ServicePorts, String> {
    let ports = text.split_once('-').and_then(|(first, last)| {
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        Some(ServicePorts { first, last })
    });
    match ports {
        Some(ports) if 1024 <= ports.first && ports.first <= ports.last => Ok(ports),
        _ => Err("expected the first and the last port, from 1024 up, as in 20000-21999".to_owned()),
    }
}

// === impl CommonFlags ===

impl CommonFlags {
    /// The kubeconfig, if one is given. As with kubectl it may be several files with colons between them.
    pub fn kubeconfig(&self) -> Option<&Path> {
        self.kubeconfig_path.as_deref().filter(|path| !path.is_empty()).map(Path::new)
    }

    /// Whether a DLX would stop accepting connections before everybody has followed the change that leads its Services elsewhere.
    pub fn shutdown_grace_is_short(&self) -> bool {
        self.service_ports.is_some()
            && shutdown::accepting_time(self.shutdown_grace) < self.endpoint_propagation_delay
    }

    /// How the daemons know of each other.
    pub fn coordination(&self) -> Coordination {
        match self.coordinate_by {
            CoordinateBy::Files => Coordination::Files,
            CoordinateBy::Leases => Coordination::Leases,
            CoordinateBy::Auto if env::var_os(cluster::IN_A_POD).is_some() => Coordination::Leases,
            CoordinateBy::Auto => Coordination::Files,
        }
    }

    /// The admin server's token, if one is to be asked for.
    ///
    /// # Errors
    ///
    /// Its file cannot be read or is empty: a [`Misconfigured`].
    pub fn admin_token(&self) -> anyhow::Result<Option<Token>> {
        Ok(self.admin_token_file.as_deref().map(Token::read).transpose()?)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        common: CommonFlags,
    }

    #[test]
    fn an_empty_kubeconfig_is_none() {
        let line = |path| Line::parse_from(["dlx", "--kubeconfig-path", path]).common;
        assert_eq!(line("").kubeconfig(), None);
        assert_eq!(line("a:b").kubeconfig(), Some(Path::new("a:b")));
    }

    #[test]
    fn two_thirds_of_the_shutdown_grace_are_the_propagation_delay_at_least() {
        for (line, is_short) in [
            ("", false),
            ("--service-ports=20000-20003", false),
            ("--service-ports=20000-20003 --shutdown-grace=44s", true),
            ("--service-ports=20000-20003 --endpoint-propagation-delay=31s", true),
            ("--service-ports=20000-20003 --endpoint-propagation-delay=31s --shutdown-grace=46500ms", false),
            ("--shutdown-grace=1s", false),
        ] {
            let flags = Line::parse_from(std::iter::once("dlx").chain(line.split_whitespace())).common;
            assert_eq!(flags.shutdown_grace_is_short(), is_short, "{line}");
        }
    }
}
