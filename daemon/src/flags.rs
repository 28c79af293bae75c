//! Flags both daemons take.

use std::{
    env,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::builder::OsStringValueParser;
use scaler_types::{Coordination, ServicePorts};

use crate::{
    cluster,
    settings::{InvalidValue, values::parse_within},
    shutdown,
    telemetry::{LogFormat, ResourceMetrics},
    token::Token,
    wakes,
};

/// Flattened into each daemon's own flags.
#[derive(clap::Args, Clone, Debug)]
pub struct CommonFlags {
    /// The namespace to manage where no namespace file is given; `*` is all.
    ///
    /// Without it: the namespace of the pod that the daemon runs in, else `default`. With --config each file names its own.
    #[arg(long, env = "SCALER_NAMESPACE", value_name = "NAMESPACE")]
    pub namespace: Option<String>,

    /// The kubeconfig of the cluster, for Leases and for the plugins. Without it: the cluster that the daemon runs in.
    // An empty variable is one that is not set, as with kubectl.
    #[arg(long, env = "KUBECONFIG", value_name = "FILE", value_parser = OsStringValueParser::new())]
    kubeconfig_path: Option<OsString>,

    /// The folder of the plugins. Every `*.so` in it is loaded at the start, in the order of their names. The autoscaler also loads
    /// the metric sources, from the folder `metric-sources` in it.
    #[arg(long, default_value = "plugins", value_name = "DIR")]
    pub plugins_dir: PathBuf,

    /// How long the plugins may take to load. Each is loaded by a process of its own first.
    ///
    /// A plugin that takes longer, or crashes there, is skipped and reported. Each file is logged before it is loaded.
    #[arg(long, default_value = "30s", value_parser = scaler_types::duration::parse, value_name = "DURATION")]
    pub(crate) plugin_load_timeout: Duration,

    /// A namespace file, or a folder of them (`*.yaml`, `*.yml`, in the order of their names).
    ///
    /// Can be given several times; each file holds one namespace. Changes take effect while the daemon runs; an invalid file is
    /// reported and its last valid contents stay in effect. Without it: one namespace with the defaults, see --namespace.
    #[arg(long, value_name = "FILE-or-DIR")]
    pub config: Vec<PathBuf>,

    /// Exit with status 78 if at the start any plugin cannot be loaded or any namespace file is invalid.
    ///
    /// Without it they are skipped and reported, and the daemon exits only if no plugin or no namespace file is left.
    #[arg(long)]
    pub strict: bool,

    /// A file with the bearer token that write requests on the admin port must carry; read again when it changes. Without it
    /// write requests are accepted from loopback only.
    #[arg(long, value_name = "FILE")]
    pub(crate) admin_token_file: Option<PathBuf>,

    /// The folder for state that is not in a cluster: records, registered daemons and locks. All daemons of one host share it.
    #[arg(long, default_value = "state", value_name = "DIR")]
    pub state_dir: PathBuf,

    /// How the daemons find each other and elect the leader: `files` (locked files in `--state-dir`, on one host), `leases`
    /// (in a cluster), or `auto`: `leases` in a pod, else `files`.
    #[arg(long, value_enum, default_value_t = CoordinateBy::Auto, value_name = "WAY")]
    pub(crate) coordinate_by: CoordinateBy,

    /// The ports that every DLX binds for intercepted Services, one for each port of a Service, as in `20000-21999`.
    ///
    /// Give all daemons the same, outside of the range for outgoing connections (net.ipv4.ip_local_port_range). Each port takes
    /// two file descriptors and about 1.5 KiB. A DLX that cannot bind one of them is not ready and reports which. Without
    /// this flag no Service is intercepted, and a workload is scaled to zero only with `scaler.dev/intercept: manual`.
    #[arg(long, value_name = "FIRST-LAST", value_parser = service_ports)]
    pub service_ports: Option<ServicePorts>,

    /// The Service, in the daemons' own namespace, in front of the DLXs' `--listen-address`.
    ///
    /// A workload with `scaler.dev/intercept: manual` is scaled to zero only if an Ingress or HTTPRoute has this Service as its
    /// backend.
    #[arg(long, default_value = "scaler-dlx", value_name = "NAME")]
    pub(crate) dlx_service: String,

    /// How long nodes, ingress controllers and clients may take until they use a Service's changed endpoints.
    ///
    /// Raise it where they take longer: requests that still go to the former endpoints after this time can fail.
    #[arg(long, default_value = "30s", value_parser = scaler_types::duration::parse, value_name = "DURATION")]
    pub endpoint_propagation_delay: Duration,

    /// How many resources this daemon wakes at once; lower it to spare the cluster's scheduler.
    ///
    /// Further wakes are queued, fairly between namespaces, first those that a request waits for; their requests are held.
    /// Each daemon counts its own wakes, so three DLXs start three times as many. A wake by a DLX counts until the resource
    /// answers; one by the autoscaler or by `autoscaler restore` until the rollout is complete (for kinds without one, until the
    /// Service has a ready endpoint), for 60 s at most.
    #[arg(long, default_value_t = wakes::DEFAULT, value_parser = at_least_one, value_name = "COUNT")]
    pub max_concurrent_wakes: usize,

    /// The format of the log on standard error, `text` or `json`; `RUST_LOG` sets what is logged.
    ///
    /// Lines that clients can cause at will are limited, for each place in the code, to 10 at once and then one per 10 s
    /// (`left_out` counts the others). Where standard error is read too slowly, lines beyond a buffer of 4 MiB are left out
    /// (`scaler_log_lines_left_out_total`).
    #[arg(long, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    pub log_format: LogFormat,

    /// For which resources the metrics have a series: those whose value is not zero (`active`), `all` or `none`.
    #[arg(long, value_enum, default_value_t = ResourceMetrics::Active, value_name = "WHICH")]
    pub resource_metrics: ResourceMetrics,

    /// How long the daemon may take to stop after the first SIGTERM; a second signal stops it at once.
    ///
    /// A DLX in the endpoints of intercepted Services accepts connections until it has been removed from all of them and
    /// `--endpoint-propagation-delay` has passed, for two thirds of this time at most. So with `--service-ports` give 1.5 times
    /// that delay or more; the DLX warns if it is less. Keep it below the pod's `terminationGracePeriodSeconds`.
    #[arg(long, default_value = "45s", value_parser = scaler_types::duration::parse, value_name = "DURATION")]
    pub shutdown_grace: Duration,

    /// Stop, as after SIGTERM, when the process with this id ends; it must be the one that started the daemon.
    ///
    /// `autoscaler run` starts both daemons with it, so that they stop even if it is killed.
    #[arg(long, value_name = "PID")]
    stop_with_parent: Option<i32>,
}

/// What `--coordinate-by` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum CoordinateBy {
    /// By Leases where the daemon runs in a pod, else by files.
    Auto,
    /// By locked files in the state folder.
    Files,
    /// By Leases in the daemon's own namespace.
    Leases,
}

fn at_least_one(text: &str) -> Result<usize, InvalidValue> {
    parse_within(text, 1, usize::MAX, "a number, 1 at least")
}

fn service_ports(text: &str) -> Result<ServicePorts, InvalidValue> {
    let ports = text.split_once('-').and_then(|(first, last)| {
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        Some(ServicePorts { first, last })
    });
    let expected = "the first and the last port, from 1024 up, as in 20000-21999";
    ports
        .filter(|ports| 1024 <= ports.first && ports.first <= ports.last)
        .ok_or_else(|| InvalidValue::new(text, "a range of ports", expected))
}

// === impl CommonFlags ===

impl CommonFlags {
    /// The kubeconfig, if one is given. As with kubectl it may be several files with colons between them.
    pub fn kubeconfig(&self) -> Option<&Path> {
        self.kubeconfig_path.as_deref().filter(|path| !path.is_empty()).map(Path::new)
    }

    /// Whether a DLX would stop accepting connections before the change of its Services' endpoints has propagated.
    pub fn shutdown_grace_is_short(&self) -> bool {
        self.service_ports.is_some()
            && shutdown::accepting_time(self.shutdown_grace) < self.endpoint_propagation_delay
    }

    /// Has the kernel send SIGTERM to this process when its parent ends, if `--stop-with-parent` is given. To be called once
    /// signals are followed.
    ///
    /// # Errors
    ///
    /// The kernel does not do it.
    pub fn follow_parent(&self) -> io::Result<()> {
        self.stop_with_parent.map_or(Ok(()), shutdown::stop_with_parent)
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
