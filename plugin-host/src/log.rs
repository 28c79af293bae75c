//! The plugins' log lines, written to the daemon's own log under the plugin's kind.

use std::{
    collections::BTreeMap,
    panic::catch_unwind,
    sync::{Mutex, MutexGuard, PoisonError},
};

use scaler_types::v1::{Host, LogLine};
use tracing::level_filters::LevelFilter;

/// Panics in the plugins of one kind, in their calls and in tasks of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Panics {
    /// The plugin's kind.
    pub kind: String,
    /// How many so far.
    pub count: u64,
    /// The last message, and its place.
    pub last: String,
}

/// Where a plugin's panic hook logs from.
const PANIC_HOOK: &str = "scaler_types::v1::log";

static PANICS: Mutex<BTreeMap<String, Panics>> = Mutex::new(BTreeMap::new());

/// The kinds whose plugins have panicked in this process.
pub fn panics() -> Vec<Panics> {
    lock().values().cloned().collect()
}

/// Under the lock it is only read and written: it is whole even after a panic.
fn lock() -> MutexGuard<'static, BTreeMap<String, Panics>> {
    PANICS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The functions lent to a plugin.
pub(crate) fn host() -> Host {
    let level = match LevelFilter::current() {
        // Panics are counted whatever is logged.
        LevelFilter::OFF | LevelFilter::ERROR => 1,
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
    if line.level == 1 && source == PANIC_HOOK {
        let mut panics = lock();
        let none = Panics { kind: plugin.to_owned(), count: 0, last: String::new() };
        let of_kind = panics.entry(plugin.to_owned()).or_insert(none);
        of_kind.count += 1;
        of_kind.last = format!("{message}{space}{fields}");
    }
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
