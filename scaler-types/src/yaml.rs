//! Reads namespace files and reports their errors: the same in the daemons and in a plugin's own configuration.

use std::fmt::Display;

use serde_yaml::{Error, Options, budget::BudgetBreach};

/// How many levels a file may have: each costs stack.
const DEEPEST: usize = 64;

/// How many values aliases may unfold into. A few lines of them could mean gigabytes.
const ALIASES_UNFOLD_INTO: usize = 100_000;

/// How many values (keys, too) a file may have. A namespace file with 10,000 resources has half of it.
const MAX_VALUES: usize = 500_000;

/// The reader's limits: above a namespace file with 10,000 resources, and below what hurts.
pub fn options() -> Options {
    serde_yaml::options! {
        budget: serde_yaml::budget! {
            max_events: 2 * MAX_VALUES,
            max_nodes: MAX_VALUES,
            max_depth: DEEPEST,
            max_recorded_anchor_events: ALIASES_UNFOLD_INTO,
        },
        alias_limits: serde_yaml::alias_limits! {
            max_total_replayed_events: ALIASES_UNFOLD_INTO,
        },
        // The error is one line, without an excerpt.
        with_snippet: false,
        // A tag is nothing we know, and nothing that may go unnoticed.
        reject_unsupported_tags: true,
        // What a number may be is said where it is read, with what was expected.
        non_finite_float_policy: serde_yaml::NonFiniteFloatPolicy::PassThrough,
    }
}

/// One line: `file:line:column: what is wrong, expected what`.
pub fn explain(file: &str, error: &Error) -> String {
    let mut inner = error.without_snippet();
    let at = inner.location().map(|at| (at.line(), at.column())).filter(|(line, _)| *line > 0);
    let (line, column) = at.unwrap_or((1, 1));
    while let Error::AliasError { error, .. } = inner {
        inner = error.without_snippet();
    }
    format!("{file}:{line}:{column}: {}", what(inner))
}

fn what(error: &Error) -> String {
    match error {
        Error::SerdeUnknownField { field, expected, .. } => {
            format!("unknown key {field:?}, expected {}", one_of(expected))
        }
        Error::SerdeUnknownVariant { variant, expected, .. } => {
            format!("unknown value {variant:?}, expected {}", one_of(expected))
        }
        Error::SerdeMissingField { field, .. } => {
            format!("the key {field:?} is missing, expected it in this map")
        }
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("the key {key:?} is there a second time, expected it once")
        }
        Error::SerdeInvalidType { unexpected, expected, .. }
        | Error::SerdeInvalidValue { unexpected, expected, .. } => {
            format!("{unexpected} is not allowed here, expected {expected}")
        }
        Error::NullIntoString { .. } => "the value is missing, expected one".to_owned(),
        Error::MultipleDocuments { .. } => {
            "a second document begins, expected one document in a file".to_owned()
        }
        Error::InvalidScalar { ty, .. } | Error::Unexpected { expected: ty, .. } => match *ty {
            "mapping start" => "not a map, expected lines of key: value".to_owned(),
            "sequence start" => "not a list, expected [...] or lines that begin with -".to_owned(),
            "string scalar" => "not a single value, expected a text or a number".to_owned(),
            "boolean" => "not a yes or no, expected true or false".to_owned(),
            "floating point" => "not a number, expected one as in 0 or 2.5".to_owned(),
            "u8" => whole(u8::MIN, u8::MAX),
            "u16" => whole(u16::MIN, u16::MAX),
            "u32" => whole(u32::MIN, u32::MAX),
            "u64" => whole(u64::MIN, u64::MAX),
            "i8" => whole(i8::MIN, i8::MAX),
            "i16" => whole(i16::MIN, i16::MAX),
            "i32" => whole(i32::MIN, i32::MAX),
            "i64" => whole(i64::MIN, i64::MAX),
            other => format!("something else, expected {other}"),
        },
        Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => {
            format!("too many levels, expected {DEEPEST} at most")
        }
        Error::Budget { breach: BudgetBreach::Nodes { .. } | BudgetBreach::Events { .. }, .. } => {
            format!("too many values, expected {MAX_VALUES} at most in one file")
        }
        Error::Budget { .. } => "too much (do aliases unfold into it?), expected a smaller file".to_owned(),
        other => {
            // The library ends its text with the place, which we have put in front.
            let text = other.to_string();
            let text = text.lines().next().unwrap_or_default();
            let text = text.rsplit_once(" at line ").map_or(text, |(text, _)| text);
            let expects = if text.contains("expected") { "" } else { ", expected well-formed YAML" };
            format!("{text}{expects}")
        }
    }
}

fn whole<N: Display>(least: N, most: N) -> String {
    format!("not a number that fits, expected a whole one from {least} to {most}")
}

fn one_of(names: &[&str]) -> String {
    match names {
        [] => "none here".to_owned(),
        [name] => (*name).to_owned(),
        names => format!("one of {}", names.join(", ")),
    }
}
