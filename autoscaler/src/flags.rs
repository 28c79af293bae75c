//! The autoscaler's flags.

use std::{net::SocketAddr, time::Duration};

use crate::cli::Command;
use daemon::{
    flags::CommonFlags,
    settings::{FlagSettings, ObjectKind},
};

/// Scales idle resources to zero.
///
/// Every scale interval it asks the resource-scalers (plugins) for their resources and the DLXs how busy each one was.
/// One that was idle for its whole window is put to zero once every DLX has confirmed that nothing of it is in flight.
/// Whatever is not known for certain keeps a resource awake; GET /api/v1/resources on the admin address says what was
/// decided on each, and why. Of several autoscalers one leads.
///
/// With a COMMAND it is no daemon: it asks running ones, looks files and plugins over, or gives everything back (autoscaler COMMAND
/// --help).
#[derive(clap::Parser, Clone, Debug)]
#[command(
    name = "autoscaler",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_value_name = "COMMAND",
    after_long_help = "A first signal (SIGTERM, SIGINT) ends it when the tries under way are finished or reverted, a second one at once.\n\
        Exit status: 0 fine, 64 bad flags, 78 bad configuration or no plugin, 1 anything else."
)]
pub struct Flags {
    /// What to do instead of running as the daemon.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// What both daemons take.
    #[command(flatten)]
    pub common: CommonFlags,

    /// How often all resources are looked at [default: 1m]
    ///
    /// A namespace file's scaleInterval is stronger, a plugin's own default weaker.
    #[arg(long, value_name = "DURATION", value_parser = scaler_types::duration::parse_interval)]
    pub scale_interval: Option<Duration>,

    /// The kind of object whose custom metrics are asked for, e.g. NuclioFunction
    ///
    /// With it the metric source is kubernetes, the cluster's custom metrics API, where a namespace file names no other.
    #[arg(long, value_name = "KIND")]
    pub metrics_resource_kind: Option<String>,

    /// The API group of that kind, e.g. nuclio.io
    #[arg(long, value_name = "GROUP", requires = "metrics_resource_kind")]
    pub metrics_resource_group: Option<String>,

    /// How long no DLX takes requests until the leading autoscaler gives every Service back and wakes what sleeps behind one
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = scaler_types::duration::parse_interval)]
    pub dlx_unavailable_timeout: Duration,

    /// Where /healthz, /readyz, /metrics and what is known of each resource are served; also takes what `sleep` wants
    #[arg(long, value_name = "ADDRESS", default_value = ":8092", value_parser = daemon::listen::parse_address)]
    pub admin_address: SocketAddr,
}

// === impl Flags ===

impl Flags {
    /// What these flags set for every namespace file.
    pub fn settings(&self) -> FlagSettings {
        let metrics_resource = self
            .metrics_resource_kind
            .clone()
            .map(|kind| ObjectKind { group: self.metrics_resource_group.clone().unwrap_or_default(), kind });
        FlagSettings { scale_interval: self.scale_interval, metrics_resource, ..FlagSettings::default() }
    }
}
