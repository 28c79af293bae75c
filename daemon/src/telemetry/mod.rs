//! Logs and metrics.

mod lines;
mod metric;
mod queue;

use std::{
    fmt::{self, Write as _},
    io::{self, IsTerminal as _},
    panic,
    sync::LazyLock,
    thread,
    time::Duration,
};

use prometheus_client::{
    metrics::{counter::Counter, info::Info},
    registry::Registry,
};
use tracing::field::Field;
use tracing_subscriber::{
    EnvFilter,
    field::MakeExt as _,
    fmt::format::{JsonFields, Writer, debug_fn, format},
};

use lines::{Escaped, Limits, Lines};
pub(crate) use metric::{CONFIG_ERRORS, PLUGIN_LOADED, PLUGIN_PANICS, READY, REPORTS_DROPPED};
pub use metric::{METRICS, MetricDeclaration, differences};
use queue::{Queue, Stderr};

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// A line of text per event, for people.
    Text,
    /// A JSON object per line, for what collects logs.
    Json,
}

/// Which metrics have a series for each resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ResourceMetrics {
    /// Those that are not zero.
    #[default]
    Active,
    /// All of all resources.
    All,
    /// None.
    None,
}

/// The filter where RUST_LOG is empty or not set. kube logs every failed call as an error; its caller logs it already.
const DEFAULT: &str = "info,kube_client::client::builder=off";

/// How long [`flush`] waits at most.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The process's log.
static LOG: Queue = Queue::new();

/// Lines that were dropped: a client caused too many of them, or standard error was not read.
static LEFT_OUT: LazyLock<Counter> = LazyLock::new(Counter::default);

/// Adds each line to the queue.
struct Log;

/// Installs the process's log subscriber: filter from RUST_LOG, default info, to standard error. A thread of its own
/// writes it (and reads nothing of the environment), so logging never waits for the reader. Panics are logged, too.
///
/// # Panics
///
/// When called a second time.
pub fn init(form: LogFormat) {
    let variable = std::env::var("RUST_LOG").unwrap_or_default();
    let (filter, refused) =
        match EnvFilter::builder().parse(if variable.is_empty() { DEFAULT } else { &variable }) {
            Ok(filter) => (filter, None),
            Err(error) => (EnvFilter::new(DEFAULT), Some(error)),
        };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Log);
    let limits = Limits::default();
    match form {
        LogFormat::Text => {
            let inner = format().with_ansi(io::stderr().is_terminal());
            let fields = debug_fn(write_field).delimited(" ");
            log.fmt_fields(fields).event_format(Lines { inner, form, limits }).init();
        }
        LogFormat::Json => {
            let inner = format().json().flatten_event(true).with_current_span(false);
            log.fmt_fields(JsonFields::new()).event_format(Lines { inner, form, limits }).init();
        }
    }
    let missed = |lines| {
        LEFT_OUT.inc_by(lines);
        tracing::warn!(lines, "dropped log lines: standard error was read too slowly");
    };
    let writer = thread::Builder::new().name("log".to_owned());
    writer.spawn(move || LOG.write_out(&mut Stderr, missed)).expect("the thread that writes the log starts");
    panic::set_hook(Box::new(|panicked| {
        let at = panicked.location().map(ToString::to_string).unwrap_or_default();
        let said = panicked.payload_as_str().unwrap_or("with a payload that is no text");
        tracing::error!(at, "panicked: {said}");
        // It may be the last thing that this process does.
        flush();
    }));
    if let Some(error) = refused {
        tracing::warn!(RUST_LOG = variable, %error, "RUST_LOG is no filter (as in info,dlx=debug): logging at info");
    }
}

/// Returns when what was logged so far has been written, or after a second: before the process ends, or does what it may
/// not survive.
pub fn flush() {
    LOG.flush(FLUSH_TIMEOUT);
}

/// A registry that knows which build this is (`scaler_build_info`), and how much is missing in the log. `daemon`:
/// `autoscaler` or `dlx`.
pub fn registry(daemon: &'static str) -> Registry {
    let mut registry = Registry::with_prefix("scaler");
    let build = Info::new([("daemon", daemon), ("version", env!("CARGO_PKG_VERSION"))]);
    metric::BUILD.register(&mut registry, build);
    metric::LOG_LINES_LEFT_OUT.register(&mut registry, LEFT_OUT.clone());
    registry
}

/// A field as a person reads it, whatever is in its value.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    if field.name() != "message" {
        write!(writer, "{}=", field.name())?;
    }
    write!(Escaped(writer), "{value:?}")
}

// === impl ResourceMetrics ===

impl ResourceMetrics {
    /// Whether a resource's series is shown while it has this value.
    pub fn show(self, value: u64) -> bool {
        match self {
            Self::Active => value > 0,
            Self::All => true,
            Self::None => false,
        }
    }
}

// === impl Log ===

impl io::Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        LOG.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
