//! How a log line is made: what a client can cause is rate-limited, and nothing in a value breaks or forges a line.

use std::{
    collections::HashMap,
    fmt::{self, Write},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::{Event, Level, Metadata, Subscriber, callsite::Identifier};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use super::LogFormat;

/// The crates whose lines are about what was decided here. Any other one (an HTTP library, say) logs what a client sent it.
const OURS: [&str; 6] = ["autoscaler", "daemon", "dlx", "plugin", "plugin_host", "scaler_types"];

/// Modules of ours that log what clients did.
const CLIENTS: [&str; 6] = [
    "daemon::admin",
    "dlx::client",
    "dlx::forward",
    "dlx::listen::accept",
    "dlx::listen::connection",
    "dlx::listen::worker",
];

/// So many lines of one place in the code are written at once, if a client can cause them; then one per [`INTERVAL`].
const BURST: u32 = 10;
const INTERVAL: Duration = Duration::from_secs(10);

/// Lines in `form`, made by `inner`.
#[derive(Debug)]
pub(super) struct Lines<F> {
    pub(super) inner: F,
    pub(super) form: LogFormat,
    pub(super) limits: Limits,
}

/// How much may be said from each place in the code.
#[derive(Debug, Default)]
pub(super) struct Limits(Mutex<HashMap<Identifier, Limit>>);

#[derive(Debug)]
struct Limit {
    lines: u32,
    /// When the next line is earned.
    earns: Instant,
    left_out: u64,
}

/// Writes on what is not a control character; the others are escaped.
pub(super) struct Escaped<W>(pub(super) W);

// === impl Lines ===

impl<S, N, F> FormatEvent<S, N> for Lines<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        if !limited(metadata) {
            return self.inner.format_event(context, writer, event);
        }
        let Some(left_out) = self.limits.admit(metadata.callsite(), Instant::now()) else {
            super::LEFT_OUT.inc();
            return Ok(());
        };
        if left_out == 0 {
            return self.inner.format_event(context, writer, event);
        }
        let mut line = String::new();
        self.inner.format_event(context, Writer::new(&mut line), event)?;
        match self.form {
            LogFormat::Text => writeln!(writer, "{} left_out={left_out}", line.trim_end()),
            LogFormat::Json => {
                let line = line.trim_end();
                let object = line.strip_suffix('}').unwrap_or(line);
                writeln!(writer, "{object},\"left_out\":{left_out}}}")
            }
        }
    }
}

/// Whether a client can cause it at will. Levels below INFO are not limited: they were requested explicitly.
fn limited(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    let within = |module: &str| {
        target.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    *metadata.level() <= Level::INFO
        && (!OURS.iter().any(|module| within(module)) || CLIENTS.iter().any(|module| within(module)))
}

// === impl Limits ===

impl Limits {
    /// Whether a line of this place may be written now, and how many were left out before it.
    fn admit(&self, callsite: Identifier, now: Instant) -> Option<u64> {
        let mut limits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let limit =
            limits.entry(callsite).or_insert(Limit { lines: BURST, earns: now + INTERVAL, left_out: 0 });
        if limit.earns <= now {
            let earned = now.duration_since(limit.earns).as_secs() / INTERVAL.as_secs() + 1;
            limit.lines = limit.lines.saturating_add(u32::try_from(earned).unwrap_or(u32::MAX)).min(BURST);
            limit.earns = now + INTERVAL;
        }
        if limit.lines == 0 {
            limit.left_out += 1;
            return None;
        }
        limit.lines -= 1;
        Some(std::mem::take(&mut limit.left_out))
    }
}

// === impl Escaped ===

impl<W: Write> Write for Escaped<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut plain = 0;
        for (at, character) in text.char_indices().filter(|(_, character)| special(*character)) {
            self.0.write_str(&text[plain..at])?;
            write!(self.0, "{}", character.escape_default())?;
            plain = at + character.len_utf8();
        }
        self.0.write_str(&text[plain..])
    }
}

/// Ends a line, moves a terminal's cursor, or turns the direction of what follows.
fn special(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use tracing::{Callsite as _, callsite::DefaultCallsite};

    use super::*;

    #[test]
    fn no_value_ends_a_line_or_reaches_the_terminal() {
        let escaped = |text: &str| {
            let mut out = String::new();
            Escaped(&mut out).write_str(text).unwrap();
            out
        };
        for (text, expected) in [
            ("shop/web", "shop/web"),
            ("Müller \"a\" \\ 文", "Müller \"a\" \\ 文"),
            ("a\nb\r\nc\td", "a\\nb\\r\\nc\\td"),
            ("\u{1b}[2J\u{7}", "\\u{1b}[2J\\u{7}"),
            ("\u{9b}2J\u{7f}", "\\u{9b}2J\\u{7f}"),
            ("a\u{2028}b\u{202e}c\u{2066}", "a\\u{2028}b\\u{202e}c\\u{2066}"),
            ("", ""),
        ] {
            assert_eq!(escaped(text), expected);
        }
    }

    #[test]
    fn a_place_that_says_too_much_is_limited_and_what_it_left_out_is_counted() {
        static PLACES: [DefaultCallsite; 2] = {
            static META: [tracing::Metadata<'static>; 2] = [meta(0), meta(1)];
            const fn meta(place: usize) -> Metadata<'static> {
                Metadata::new(
                    "event",
                    "h2::proto",
                    Level::WARN,
                    None,
                    None,
                    None,
                    tracing::field::FieldSet::new(&[], Identifier(&PLACES[place])),
                    tracing::metadata::Kind::EVENT,
                )
            }
            [DefaultCallsite::new(&META[0]), DefaultCallsite::new(&META[1])]
        };
        let [one, other] = PLACES.each_ref().map(|place| place.metadata().callsite());
        let (limits, start) = (Limits::default(), Instant::now());
        let admit = |place: &Identifier, after: Duration| limits.admit(place.clone(), start + after);
        for _ in 0..BURST {
            assert_eq!(admit(&one, Duration::ZERO), Some(0));
        }
        for _ in 0..1000 {
            assert_eq!(admit(&one, Duration::ZERO), None);
        }
        assert_eq!(admit(&other, Duration::ZERO), Some(0));
        assert_eq!(admit(&one, INTERVAL), Some(1000));
        assert_eq!(admit(&one, INTERVAL), None);
        let quiet = INTERVAL * 100;
        assert_eq!(admit(&one, quiet), Some(1));
        let more = (0..1000).filter(|_| admit(&one, quiet).is_some()).count();
        assert_eq!(more, BURST as usize - 1, "a quiet time earns no more than a burst");
    }

    #[test]
    fn only_lines_that_a_client_can_cause_are_limited() {
        let limited_at = |target: &'static str, level: Level| {
            let fields = tracing::field::FieldSet::new(&[], Identifier(&NONE));
            limited(&Metadata::new(
                "event",
                target,
                level,
                None,
                None,
                None,
                fields,
                tracing::metadata::Kind::EVENT,
            ))
        };
        static NONE: DefaultCallsite = {
            static META: Metadata<'static> = Metadata::new(
                "event",
                "none",
                Level::WARN,
                None,
                None,
                None,
                tracing::field::FieldSet::new(&[], Identifier(&NONE)),
                tracing::metadata::Kind::EVENT,
            );
            DefaultCallsite::new(&META)
        };
        for (target, level, expected) in [
            ("h2::proto::ping_pong", Level::WARN, true),
            ("hyper", Level::ERROR, true),
            ("daemon::admin", Level::WARN, true),
            ("dlx::listen::accept", Level::WARN, true),
            ("dlx::clients", Level::WARN, false),
            ("dlx::driver::scale", Level::INFO, false),
            ("autoscaler::drain", Level::INFO, false),
            ("plugin", Level::WARN, false),
            ("h2::proto::ping_pong", Level::DEBUG, false),
        ] {
            assert_eq!(limited_at(target, level), expected, "{target} {level}");
        }
    }
}
