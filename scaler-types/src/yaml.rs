//! How namespace files are read and their errors told: the same in the daemons and in a plugin's own section.

use serde_yaml::{Error, Options};

/// What the reader allows. The limits are far above a namespace file with 10,000 resources and below what hurts;
/// aliases keep the library's own, so that a few lines cannot unfold into gigabytes.
pub fn options() -> Options {
    serde_yaml::options! {
        budget: serde_yaml::budget! {
            max_events: 20_000_000,
            max_nodes: 10_000_000,
        },
        // One line is told, not an excerpt.
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
        Error::SerdeMissingField { field, .. } => format!("the key {field:?} is missing"),
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("the key {key:?} is there a second time")
        }
        Error::SerdeInvalidType { unexpected, expected, .. }
        | Error::SerdeInvalidValue { unexpected, expected, .. } => {
            format!("{unexpected} is not what is due here, expected {expected}")
        }
        Error::Unexpected { expected, .. } => match *expected {
            "mapping start" => "something else, expected a map (key: value)".to_owned(),
            "sequence start" => {
                "something else, expected a list ([...] or lines that begin with -)".to_owned()
            }
            "string scalar" => "something else, expected a single value".to_owned(),
            other => format!("expected {other}"),
        },
        Error::NullIntoString { .. } => "nothing stands here, expected a value".to_owned(),
        Error::MultipleDocuments { .. } => {
            "a second document begins, expected one document in a file".to_owned()
        }
        Error::Budget { breach, .. } => {
            format!("this unfolds into more than is allowed ({breach:?}), expected less")
        }
        other => {
            // The library ends its text with the place, which we have put in front.
            let text = other.to_string();
            let text = text.lines().next().unwrap_or_default();
            text.rsplit_once(" at line ").map_or(text, |(text, _)| text).to_owned()
        }
    }
}

fn one_of(names: &[&str]) -> String {
    match names {
        [] => "none here".to_owned(),
        [name] => (*name).to_owned(),
        names => format!("one of {}", names.join(", ")),
    }
}
