//! The values of a namespace file, as people write them. Each says what was expected.

use std::{fmt, time::Duration};

use scaler_types::duration;
use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};

/// Nothing measures more often.
const MIN_SCRAPE_INTERVAL: Duration = Duration::from_millis(10);

/// A duration above zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Span(pub(super) Duration);

/// An interval or a window, not too short.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Interval(pub(super) Duration);

/// How often something else measures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ScrapeInterval(pub(super) Duration);

/// A number of bytes above zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bytes(pub(super) u64);

/// A whole number above zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Count(pub(super) usize);

/// A port, 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct TargetPort(pub(super) u16);

/// A status that ends an exchange, 200 to 599.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Status(pub(super) u16);

/// A number that is not negative.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Threshold(pub(super) f64);

/// A header's name.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Header(pub(super) String);

/// A namespace: `*`, or a name as Kubernetes has them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Namespace(pub(super) String);

/// A path that begins with `/`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct UrlPath(pub(super) String);

/// A label's name in Prometheus.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Label(pub(super) String);

/// A text that is not empty.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Text(pub(super) String);

/// `64MiB`, `1GiB`, `512KiB`, `1000`.
///
/// # Errors
///
/// Anything else, with what was expected.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("{text:?} is not a size: expected a number of bytes, as in 512KiB, 64MiB, 1GiB or 1000");
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(wrong()),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(wrong)
}

/// Whether `name` is a namespace: `*` for all, or a DNS label. It becomes a folder's name too.
pub(crate) fn parse_namespace(name: &str) -> Result<(), String> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let label = !name.is_empty()
        && name.len() <= 63
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-');
    if label || name == "*" {
        return Ok(());
    }
    Err(format!(
        "{name:?} is not a namespace: expected at most 63 of a-z, 0-9 and -, with no - at either end; or * for all"
    ))
}

/// Reads a scalar's text and hands it to `parse`.
fn scalar<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    expecting: &'static str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, D::Error> {
    struct Scalar<F>(&'static str, F);
    impl<T, F: FnOnce(&str) -> Result<T, String>> Visitor<'_> for Scalar<F> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            (self.1)(text).map_err(E::custom)
        }
    }
    deserializer.deserialize_str(Scalar(expecting, parse))
}

macro_rules! scalars {
    ($($name:ident, $expecting:literal, $parse:expr;)*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                scalar(deserializer, $expecting, $parse).map($name)
            }
        }
    )*};
}

scalars! {
    Span, "a duration such as 30s or 1m30s", |text| match duration::parse(text) {
        Ok(Duration::ZERO) => Err(format!("{text:?} is no time at all: expected a duration above zero, as in 30s")),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    };
    Interval, "a duration such as 30s or 1m30s", duration::parse_interval;
    ScrapeInterval, "a duration such as 15s", |text| duration::parse_at_least(text, MIN_SCRAPE_INTERVAL);
    Bytes, "a number of bytes such as 64MiB", |text| match parse_bytes(text)? {
        0 => Err(format!("{text:?} is nothing: expected a number of bytes above zero, as in 64MiB")),
        bytes => Ok(bytes),
    };
    Count, "a whole number above zero", |text| within(text, 1, usize::MAX, "a whole number above zero");
    TargetPort, "a port from 1 to 65535", |text| within(text, 1, u16::MAX, "a port from 1 to 65535");
    // An interim status (1xx) cannot be an answer.
    Status, "a status from 200 to 599", |text| within(text, 200, 599, "a status from 200 to 599");
    Threshold, "a number that is not negative", |text| match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(number),
        _ => Err(format!("{text:?} is no threshold: expected a number that is not negative, as in 0 or 2.5")),
    };
    Header, "a header's name", |text| match http::HeaderName::try_from(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(format!("{text:?} is not a header's name: expected one as in X-Resource-Name")),
    };
    Namespace, "a namespace's name", |text| parse_namespace(text).map(|()| text.to_owned());
    UrlPath, "a path that begins with /", |text| match text.starts_with('/') {
        true => Ok(text.to_owned()),
        false => Err(format!("{text:?} is not a path: expected one that begins with /")),
    };
    Label, "a label's name", |text| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        match text.bytes().all(inner) && text.starts_with(|c: char| !c.is_ascii_digit()) {
            true => Ok(text.to_owned()),
            false => Err(format!("{text:?} is not a label: expected letters, digits and _, as in name")),
        }
    };
    Text, "a text that is not empty", |text| match text.is_empty() {
        true => Err("nothing stands here: expected a text that is not empty".to_owned()),
        false => Ok(text.to_owned()),
    };
}

fn within<N: std::str::FromStr + PartialOrd>(
    text: &str,
    least: N,
    most: N,
    expected: &str,
) -> Result<N, String> {
    let number = text.parse::<N>().ok().filter(|number| *number >= least && *number <= most);
    number.ok_or_else(|| format!("{text:?} does not fit: expected {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_people_write_them() {
        for (text, bytes) in
            [("0", 0), ("1000", 1000), ("7B", 7), ("512KiB", 524_288), ("64MiB", 64 << 20), ("1GiB", 1 << 30)]
        {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "MiB",
            "64MB",
            "64 MiB",
            "1.5GiB",
            "-1",
            "64mib",
            "1TiB",
            "99999999999GiB",
            "18446744073709551616",
            "١",
        ] {
            let error = parse_bytes(text).unwrap_err();
            assert!(error.contains("expected a number of bytes"), "{text}: {error}");
        }
    }

    #[test]
    fn a_namespace_never_leaves_its_folder() {
        let long = "a".repeat(63);
        for name in ["demo", "*", "a", "a-1", &long] {
            assert_eq!(parse_namespace(name), Ok(()), "{name}");
        }
        let longer = "a".repeat(64);
        for name in ["", ".", "..", "a/b", "Demo", "-a", "a-", "a_b", "a b", "**", "ä", "a\0", &longer] {
            parse_namespace(name).unwrap_err();
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = (parse_bytes(&text), parse_namespace(&text));
        }

        #[test]
        fn a_number_of_bytes_is_read_back(bytes: u64) {
            proptest::prop_assert_eq!(parse_bytes(&bytes.to_string()), Ok(bytes));
        }
    }
}
