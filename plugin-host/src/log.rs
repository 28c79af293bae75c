//! What plugins log, written to the daemon's own log under the plugin's kind.

use std::panic::catch_unwind;

use scaler_types::v1::{Host, LogLine};
use tracing::level_filters::LevelFilter;

/// What is lent to a plugin.
pub(crate) fn host() -> Host {
    let level = match LevelFilter::current() {
        LevelFilter::OFF => 0,
        LevelFilter::ERROR => 1,
        LevelFilter::WARN => 2,
        LevelFilter::INFO => 3,
        LevelFilter::DEBUG => 4,
        _ => 5,
    };
    Host { level, log }
}

extern "C" fn log(line: LogLine<'_>) {
    // A subscriber may panic (a closed standard error does it): at this boundary that would end the process.
    let _ = catch_unwind(|| write(line));
}

fn write(line: LogLine<'_>) {
    let (plugin, source) = (line.kind.as_str(), line.target.as_str());
    let space = if line.fields.is_empty() { "" } else { " " };
    let (message, fields) = (line.message.as_str(), line.fields.as_str());
    // A level is part of an event's static description: one call site each.
    match line.level {
        0 => {}
        1 => tracing::error!(target: "plugin", plugin, source, "{message}{space}{fields}"),
        2 => tracing::warn!(target: "plugin", plugin, source, "{message}{space}{fields}"),
        3 => tracing::info!(target: "plugin", plugin, source, "{message}{space}{fields}"),
        4 => tracing::debug!(target: "plugin", plugin, source, "{message}{space}{fields}"),
        _ => tracing::trace!(target: "plugin", plugin, source, "{message}{space}{fields}"),
    }
}
