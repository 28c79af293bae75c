//! How values are written in a namespace file and in flags. Each error says what was expected.

use std::{fmt, marker::PhantomData, str::FromStr, time::Duration};

use scaler_types::duration;
use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};

use super::Expected;

/// Nothing measures more often.
const MIN_SCRAPE_INTERVAL: Duration = Duration::from_millis(10);

/// A text that is not a value of its kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidValue {
    /// It is not `what`.
    #[error("{text:?} is not {what}: expected {expected}")]
    Unfit {
        /// As it was written.
        text: String,
        /// Of which kind it is not.
        what: &'static str,
        /// What is, with an example.
        expected: &'static str,
    },
    /// It is not a duration, or one that is too short.
    #[error("{0}")]
    Duration(String),
}

/// `64MiB`, `1GiB`, `512KiB`, `1000`.
///
/// # Errors
///
/// Anything else.
pub fn parse_bytes(text: &str) -> Result<u64, InvalidValue> {
    let wrong = || InvalidValue::new(text, "a size", "a number of bytes, as in 512KiB, 64MiB, 1GiB or 1000");
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
pub(crate) fn parse_namespace(name: &str) -> Result<(), InvalidValue> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let label = !name.is_empty()
        && name.len() <= 63
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-');
    if label || name == "*" {
        return Ok(());
    }
    let expected = "at most 63 of a-z, 0-9 and -, with no - at either end; or * for all";
    Err(InvalidValue::new(name, "a namespace", expected))
}

/// Reads a scalar's text and parses it.
fn scalar<'de, D: Deserializer<'de>, T: FromStr<Err = InvalidValue>>(
    deserializer: D,
    expected: &'static str,
) -> Result<T, D::Error> {
    struct Scalar<T>(&'static str, PhantomData<T>);
    impl<T: FromStr<Err = InvalidValue>> Visitor<'_> for Scalar<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }
    deserializer.deserialize_str(Scalar(expected, PhantomData))
}

macro_rules! scalars {
    ($($(#[$attribute:meta])+ $name:ident($value:ty), $expected:literal, $parse:expr;)*) => {$(
        $(#[$attribute])+
        #[derive(Clone, Debug, PartialEq)]
        pub(crate) struct $name(pub(crate) $value);

        impl Expected for $name {
            const EXPECTED: &'static str = $expected;
        }

        impl FromStr for $name {
            type Err = InvalidValue;

            fn from_str(text: &str) -> Result<Self, InvalidValue> {
                let parse: fn(&str) -> Result<$value, InvalidValue> = $parse;
                parse(text).map(Self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                scalar(deserializer, Self::EXPECTED)
            }
        }

        impl From<$name> for $value {
            fn from(written: $name) -> Self {
                written.0
            }
        }
    )*};
}

scalars! {
    /// A duration above zero.
    Span(Duration), "a duration such as 30s or 1m30s", |text| match duration::parse(text) {
        Ok(Duration::ZERO) => Err(InvalidValue::new(text, "a duration above zero", "one as in 30s")),
        parsed => parsed.map_err(InvalidValue::duration),
    };
    /// An interval or a window, not too short.
    Interval(Duration), "a duration such as 30s or 1m30s", |text| {
        duration::parse_interval(text).map_err(InvalidValue::duration)
    };
    /// How often something else measures.
    ScrapeInterval(Duration), "a duration such as 15s", |text| {
        duration::parse_at_least(text, MIN_SCRAPE_INTERVAL).map_err(InvalidValue::duration)
    };
    /// A number of bytes above zero.
    Bytes(u64), "a number of bytes such as 64MiB", |text| match parse_bytes(text)? {
        0 => Err(InvalidValue::new(text, "a size above zero", "a number of bytes, as in 64MiB")),
        bytes => Ok(bytes),
    };
    /// A whole number above zero.
    Count(usize), "a whole number above zero", |text| parse_within(text, 1, usize::MAX, "a whole number above zero");
    /// A port, 1 to 65535.
    TargetPort(u16), "a port from 1 to 65535", |text| parse_within(text, 1, u16::MAX, "a port from 1 to 65535");
    // An interim status (1xx) cannot be an answer.
    /// A status that ends an exchange, 200 to 599.
    Status(u16), "a status from 200 to 599", |text| parse_within(text, 200, 599, "a status from 200 to 599");
    /// A number that is not negative.
    #[derive(Default)]
    Threshold(f64), "a number that is not negative", |text| match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(number),
        _ => Err(InvalidValue::new(text, "a threshold", "a number that is not negative, as in 0 or 2.5")),
    };
    /// A header's name.
    Header(String), "a header's name", |text| match http::HeaderName::try_from(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(InvalidValue::new(text, "a header's name", "one as in X-Resource-Name")),
    };
    /// A namespace: `*`, or a name as Kubernetes has them.
    Namespace(String), "a namespace's name", |text| parse_namespace(text).map(|()| text.to_owned());
    /// A path that begins with `/`.
    UrlPath(String), "a path that begins with /", |text| match text.starts_with('/') {
        true => Ok(text.to_owned()),
        false => Err(InvalidValue::new(text, "a path", "one that begins with /")),
    };
    /// A label's name in Prometheus.
    Label(String), "a label's name", |text| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        match text.bytes().all(inner) && text.starts_with(|c: char| !c.is_ascii_digit()) {
            true => Ok(text.to_owned()),
            false => Err(InvalidValue::new(text, "a label", "letters, digits and _, as in name")),
        }
    };
    /// A text that is not empty.
    Text(String), "a text that is not empty", |text| match text.is_empty() {
        true => Err(InvalidValue::new(text, "a text", "one that is not empty")),
        false => Ok(text.to_owned()),
    };
}

/// A number from `least` to `most`.
pub(crate) fn parse_within<N: FromStr + PartialOrd>(
    text: &str,
    least: N,
    most: N,
    expected: &'static str,
) -> Result<N, InvalidValue> {
    let number = text.parse::<N>().ok().filter(|number| *number >= least && *number <= most);
    number.ok_or_else(|| InvalidValue::new(text, "valid here", expected))
}

// === impl InvalidValue ===

impl InvalidValue {
    pub(crate) fn new(text: &str, what: &'static str, expected: &'static str) -> Self {
        Self::Unfit { text: text.to_owned(), what, expected }
    }

    fn duration(error: impl fmt::Display) -> Self {
        Self::Duration(error.to_string())
    }
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
            let error = parse_bytes(text).unwrap_err().to_string();
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
