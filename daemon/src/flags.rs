//! Flags both daemons take.
use std::path::PathBuf;
use std::time::Duration;
/// Flattened into each daemon's own flags.
#[derive(clap::Args, Clone, Debug)]
pub struct CommonFlags {
    #[arg(long, env = "SCALER_NAMESPACE")] pub namespace: Option<String>,
    #[arg(long, env = "KUBECONFIG")] pub kubeconfig_path: Option<PathBuf>,
    #[arg(long, default_value = "plugins")] pub plugins_dir: PathBuf,
    #[arg(long)] pub config: Vec<PathBuf>,
    #[arg(long)] pub strict: bool,
    #[arg(long)] pub admin_token_file: Option<PathBuf>,
    #[arg(long, default_value = "state")] pub state_dir: PathBuf,
    #[arg(long, default_value = "text")] pub log_format: crate::telemetry::LogFormat,
    #[arg(long, default_value = "30s", value_parser = scaler_types::duration::parse)] pub shutdown_grace: Duration,
}
