//! Durations as people and Go write them: `250ms`, `30s`, `1m30s`, `1h`.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, Serializer, de};

/// Units of Go's `time.ParseDuration`, in nanoseconds; the longer names first where one begins another.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60 * 1_000_000_000),
    ("h", 3_600 * 1_000_000_000),
];

/// A text that is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration: expected a number and a unit, as in 250ms, 30s, 1m30s or 1h")]
pub struct NotADuration(pub String);

/// Reads `1m30s`, `1.5h`, `250ms`, `0`. Never negative; at most 2^64 nanoseconds (584 years).
///
/// # Errors
///
/// Anything else, with what was expected.
///
/// ```
/// # use {scaler_types::duration::parse, std::time::Duration};
/// assert_eq!(parse("1m30s"), Ok(Duration::from_secs(90)));
/// assert!(parse("10").is_err());
/// ```
pub fn parse(text: &str) -> Result<Duration, NotADuration> {
    let wrong = || NotADuration(text.to_owned());
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut rest, mut total) = (text, 0_u64);
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(end);
        // "ms" before "m" and "s": the longest name that fits.
        let (name, unit) = UNITS
            .into_iter()
            .filter(|(name, _)| tail.starts_with(name))
            .max_by_key(|(name, _)| name.len())
            .ok_or_else(wrong)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return Err(wrong());
        }
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| wrong())? };
        let mut nanos = whole.checked_mul(unit).ok_or_else(wrong)?;
        let mut place = unit;
        for digit in fraction.bytes() {
            place /= 10;
            nanos = nanos.checked_add(place * u64::from(digit - b'0')).ok_or_else(wrong)?;
        }
        total = total.checked_add(nanos).ok_or_else(wrong)?;
        rest = &tail[name.len()..];
    }
    Ok(Duration::from_nanos(total))
}

/// The shortest interval or window: below it a daemon would do nothing but measure.
pub const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// Reads an interval or a window, as [`parse`] does.
///
/// # Errors
///
/// No duration, or one below [`MIN_INTERVAL`], with what was expected.
///
/// ```
/// # use scaler_types::duration::parse_interval;
/// assert!(parse_interval("100ms").is_ok());
/// assert!(parse_interval("99ms").is_err());
/// ```
pub fn parse_interval(text: &str) -> Result<Duration, String> {
    parse_at_least(text, MIN_INTERVAL)
}

/// The same with another bound.
///
/// # Errors
///
/// No duration, or one below `least`, with what was expected.
pub fn parse_at_least(text: &str, least: Duration) -> Result<Duration, String> {
    match parse(text) {
        Ok(duration) if duration >= least => Ok(duration),
        Ok(_) => Err(format!("{text:?} is too short: expected {} or more, as in 30s or 10m", short(least))),
        Err(error) => Err(error.to_string()),
    }
}

/// Go's short form, without a trailing `0s` and then `0m`: `10m`, `1h`, `1m30s`, `250ms`.
///
/// ```
/// # use {scaler_types::duration::short, std::time::Duration};
/// assert_eq!(short(Duration::from_secs(600)), "10m");
/// assert_eq!(short(Duration::from_secs(3600)), "1h");
/// assert_eq!(short(Duration::from_millis(250)), "250ms");
/// ```
pub fn short(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let below_a_second = |unit: u128, name: &str| format!("{}{name}", decimal(nanos, unit));
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => below_a_second(1_000, "µs"),
        1_000_000..1_000_000_000 => below_a_second(1_000_000, "ms"),
        _ => {
            let (hours, minutes) = (duration.as_secs() / 3600, duration.as_secs() / 60 % 60);
            let seconds = nanos % 60_000_000_000;
            let mut text = String::new();
            if hours > 0 {
                text += &format!("{hours}h");
            }
            if minutes > 0 || hours > 0 && seconds > 0 {
                text += &format!("{minutes}m");
            }
            if seconds > 0 {
                text += &format!("{}s", decimal(seconds, 1_000_000_000));
            }
            text
        }
    }
}

/// `value / unit` with as many decimals as it takes.
fn decimal(value: u128, unit: u128) -> String {
    let (whole, rest) = (value / unit, value % unit);
    if rest == 0 {
        return whole.to_string();
    }
    let digits = unit.ilog10() as usize;
    format!("{whole}.{}", format!("{rest:0digits$}").trim_end_matches('0'))
}

/// For `#[serde(with = ...)]`: a Go duration, or a number of nanoseconds as v3io/scaler writes it.
pub mod go {
    use super::*;

    /// Writes Go's short form.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&short(*duration))
    }

    /// Reads either form.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Duration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as 30s or 1m30s")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
                parse(text).map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, nanos: u64) -> Result<Duration, E> {
                Ok(Duration::from_nanos(nanos))
            }

            fn visit_i64<E: de::Error>(self, nanos: i64) -> Result<Duration, E> {
                u64::try_from(nanos)
                    .map(Duration::from_nanos)
                    .map_err(|_| E::custom("a duration is never negative"))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// As [`go`], for an optional value.
pub mod go_option {
    use super::*;

    /// Writes Go's short form, or null.
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => go::serialize(duration, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// Reads either form, or null.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        #[derive(Deserialize)]
        struct Some_(#[serde(with = "go")] Duration);
        Ok(Option::<Some_>::deserialize(deserializer)?.map(|Some_(duration)| duration))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The forms of Go's `time.Duration.String` with v3io/scaler's trimming.
    #[test]
    fn short_form_is_gos() {
        for (nanos, text) in [
            (600_000_000_000, "10m"),
            (3_600_000_000_000, "1h"),
            (90_000_000_000, "1m30s"),
            (60_000_000_000, "1m"),
            (250_000_000, "250ms"),
            (1_500_000, "1.5ms"),
            (1_500_000_000, "1.5s"),
            (3_605_000_000_000, "1h0m5s"),
            (5_400_000_000_000, "1h30m"),
            (7, "7ns"),
            (0, "0s"),
        ] {
            assert_eq!(short(Duration::from_nanos(nanos)), text);
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            "10",
            "s",
            "1",
            "-1s",
            "1 s",
            "1d",
            "1..5s",
            ".s",
            "1.2.3s",
            "1s ",
            "99999999999h",
            "1ss",
            "five",
            "+1s",
            "1S",
        ] {
            assert_eq!(parse(text), Err(NotADuration(text.to_owned())));
        }
        assert_eq!(parse(".5s"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("1.5h"), Ok(Duration::from_secs(5400)));
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read_back(nanos: u64) {
            let duration = Duration::from_nanos(nanos);
            proptest::prop_assert_eq!(parse(&short(duration)), Ok(duration));
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = parse(&text);
        }
    }
}
