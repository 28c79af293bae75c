//! The autoscaler's flags.

use std::{net::SocketAddr, time::Duration};

use crate::cli::{self, Command};
use daemon::{
    flags::CommonFlags,
    settings::{AutoscalerOptions, MetricsSource, ObjectKind, SettingsLayer},
};

/// Scales idle resources to zero.
///
/// Every scale interval it lists the resources of its plugins (resource-scalers) and reads their activity from the DLXs,
/// the proxies that hold requests while their workload is asleep (the name, from dead-letter exchange, is v3io/scaler's),
/// or from a metric source. A resource that was idle for its whole window is scaled to zero once every DLX has confirmed
/// that no request of it is in flight. Missing data never counts as idle; GET /api/v1/resources on the admin address shows
/// each decision and its reason. Of several autoscalers one is the leader, the others are standby.
///
/// With a COMMAND it runs both daemons in the foreground, queries running ones, validates files and plugins, or restores
/// everything (autoscaler COMMAND --help).
#[derive(clap::Parser, Clone, Debug)]
#[command(
    name = "autoscaler",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_value_name = "COMMAND",
    after_long_help = "A first signal (SIGTERM, SIGINT) stops it once its drain attempts are finished or reverted, a second one at once.\n\
        Exit status: 0 success, 64 bad flags, 78 bad configuration or no plugin, 1 anything else.\n\n\
        Example:\n  autoscaler --config demo.yaml --scale-interval 10s"
)]
pub struct AutoscalerFlags {
    /// What to do instead of running as the daemon.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    /// What both daemons take.
    #[command(flatten)]
    pub common: CommonFlags,

    /// What a namespace file can set, too.
    #[command(flatten)]
    pub(crate) options: AutoscalerOptions,

    /// The kind of object whose custom metrics are read, e.g. NuclioFunction.
    ///
    /// With it `kubernetes`, the cluster's custom metrics API, is the metric source of namespace files that name none.
    #[arg(long, value_name = "KIND")]
    pub(crate) metrics_resource_kind: Option<String>,

    /// The API group of that kind, e.g. nuclio.io.
    #[arg(long, value_name = "GROUP", requires = "metrics_resource_kind")]
    pub(crate) metrics_resource_group: Option<String>,

    /// How long no DLX may be ready before traffic fails over to the pods; at least `100ms`.
    ///
    /// Then every intercepted Service is restored, and every workload that is asleep behind one is woken.
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = scaler_types::duration::parse_interval)]
    pub(crate) dlx_unavailable_timeout: Duration,

    /// The address of the admin port: /healthz, /readyz, /metrics and /api/v1.
    ///
    /// Requests from loopback must have a `Host` that no web site has: an address, `localhost`, a name without a dot, or a
    /// Service's name (`NAME.NAMESPACE.svc`).
    #[arg(long, value_name = "ADDRESS", default_value = ":8092", value_parser = daemon::listen::parse_address)]
    pub(crate) admin_address: SocketAddr,
}

// === impl AutoscalerFlags ===

impl AutoscalerFlags {
    /// Runs the command that these flags name, if any, and exits.
    pub fn run_command(&mut self) {
        if let Some(command) = self.command.take() {
            cli::run::<Self>(command);
        }
    }

    /// What these flags set for every namespace file.
    pub(crate) fn settings(&self) -> SettingsLayer {
        let group = self.metrics_resource_group.clone().unwrap_or_default();
        // As v3io/scaler, which has no other source.
        let metrics = self.metrics_resource_kind.clone().map(|kind| ObjectKind { group, kind });
        let mut settings =
            SettingsLayer { metrics: metrics.map(MetricsSource::Kubernetes), ..SettingsLayer::default() };
        self.options.clone().apply(&mut settings);
        settings
    }
}
