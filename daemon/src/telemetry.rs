//! Logs and metrics.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum LogFormat { Text, Json }
/// Installs the process's log subscriber: filter from RUST_LOG, default info, to standard error.
pub fn init(format: LogFormat) { todo!() }
