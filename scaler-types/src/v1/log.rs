//! A plugin's log and panics, on their way to the host's log.
//!
//! A library has its own copy of `tracing` and of the standard library: what it logs, and where its panics are printed,
//! is unknown to the host unless it is handed over.

use std::{any::Any, fmt::Write as _, panic};

use abi_stable::std_types::RStr;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt as _},
};

use super::{Host, LogLine};

/// Hands every event of this library to the host.
struct Forward {
    host: Host,
    kind: &'static str,
}

/// An event's message, and its other fields as text.
#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
}

/// Makes this library's log and panics go to the host. Once per library; a second call changes nothing.
pub(super) fn install(host: Host, kind: &'static str) {
    let level = match host.level {
        0 => LevelFilter::OFF,
        1 => LevelFilter::ERROR,
        2 => LevelFilter::WARN,
        3 => LevelFilter::INFO,
        4 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    // An author who has set a subscriber of his own keeps it.
    let subscriber = tracing_subscriber::registry().with(Forward { host, kind }.with_filter(level));
    let _ = tracing::subscriber::set_global_default(subscriber);
    // The hook of this library's copy of std: it never sees the host's panics nor another plugin's.
    panic::set_hook(Box::new(move |panicked| {
        let at = panicked.location().map(ToString::to_string).unwrap_or_default();
        // Straight to the host, which counts it: an author's subscriber may be another.
        (host.log)(LogLine {
            level: 1,
            kind: RStr::from_str(kind),
            target: RStr::from_str(module_path!()),
            message: RStr::from_str(&format!("panicked: {}", text(panicked.payload()))),
            fields: RStr::from_str(&format!("at={at}")),
        });
    }));
}

/// A panic's message.
pub(super) fn text(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("with a payload that is no text")
}

// === impl Forward ===

impl<S: Subscriber> Layer<S> for Forward {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let level = match *event.metadata().level() {
            Level::ERROR => 1,
            Level::WARN => 2,
            Level::INFO => 3,
            Level::DEBUG => 4,
            Level::TRACE => 5,
        };
        (self.host.log)(LogLine {
            level,
            kind: RStr::from_str(self.kind),
            target: RStr::from_str(event.metadata().target()),
            message: RStr::from_str(&fields.message),
            fields: RStr::from_str(&fields.rest),
        });
    }
}

// === impl Fields ===

impl Fields {
    fn put(&mut self, field: &Field, value: std::fmt::Arguments<'_>) {
        let _ = match field.name() {
            "message" => self.message.write_fmt(value),
            name => {
                let space = if self.rest.is_empty() { "" } else { " " };
                write!(self.rest, "{space}{name}={value}")
            }
        };
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.put(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, format_args!("{value}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, format_args!("{value}"));
    }
}
