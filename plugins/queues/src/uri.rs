//! The URI of a queue, in parts. What a workload's user writes is checked here before anything is done with it.

use std::{fmt, net::Ipv6Addr};

use percent_encoding::percent_decode_str;
use scaler_types::QueueError;

/// The longest URI that is read.
const MAX_LENGTH: usize = 2048;

/// The parts of `scheme://host:port/path?name=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Uri {
    /// In lower case.
    pub(crate) scheme: String,
    /// As [`normalise_host`] leaves it; empty where there is none.
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
    /// Without the first slash, and as it was written: percent-encoded.
    pub(crate) path: String,
    /// Decoded.
    pub(crate) parameters: Vec<(String, String)>,
}

/// A broker's address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Broker {
    /// `beanstalkd`, `redis` or `rediss`.
    pub(crate) scheme: &'static str,
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// The port of a scheme's broker, where none is named.
pub(crate) fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "beanstalkd" => Some(11300),
        "redis" | "rediss" => Some(6379),
        _ => None,
    }
}

/// A host's name in lower case without its last dot, or an IPv6 address in its shortest form without brackets. None: it is neither.
pub(crate) fn normalise_host(host: &str) -> Option<String> {
    if let Some(address) = host.strip_prefix('[') {
        return Some(address.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?.to_string());
    }
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    (name.len() <= 253 && name.split('.').all(is_label)).then_some(name)
}

/// Splits `host:port`, `[::1]:port`, either without a port. None: it is not of that form.
pub(crate) fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let end = if authority.starts_with('[') { authority.find(']')? + 1 } else { 0 };
    let Some(colon) = authority[end..].find(':').map(|colon| end + colon) else {
        return Some((authority, None));
    };
    let (host, port) = (&authority[..colon], &authority[colon + 1..]);
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((host, Some(port.parse().ok().filter(|port| *port > 0)?)))
}

/// `%2F` as `/`. None: it is no text in UTF-8.
pub(crate) fn decode(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(Into::into)
}

// === impl Uri ===

impl Uri {
    /// Reads a URI. No error repeats what may be a password.
    pub(crate) fn parse(text: &str) -> Result<Self, QueueError> {
        let invalid = |what: &str| Err(QueueError::Invalid(what.to_owned()));
        if text.len() > MAX_LENGTH {
            return invalid("the queue's URI is longer than 2048 characters");
        }
        // In `redis://user:pass/word@host` it is not before the first slash.
        if text.contains('@') {
            return Err(QueueError::Denied(
                "a queue's URI must not contain a user or a password: the operator sets them in the namespace file's \
                 metricSources.queues.credentials (write an @ in a queue's name as %40)"
                    .to_owned(),
            ));
        }
        if text.contains(|c: char| c.is_control() || c == '#' || c == ' ') {
            return invalid(
                "the queue's URI contains a space, a # or a control character: write it as %20, %23 and so on",
            );
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return invalid("not a queue's URI, expected one as beanstalkd://broker:11300/mails");
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let Some((host, port)) = split_port(authority) else {
            return invalid(
                "the queue's URI has no usable port, expected host:port with a port from 1 to 65535, an IPv6 address in brackets",
            );
        };
        let host = if host.is_empty() { Some(String::new()) } else { normalise_host(host) };
        let Some(host) = host else {
            return invalid(
                "the queue's URI has no usable host, expected a name, an IPv4 address, or an IPv6 address in brackets",
            );
        };
        let mut parameters = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(name), Some(value)) = (decode(name), decode(value)) else {
                return invalid("what follows the ? of the queue's URI is not UTF-8");
            };
            parameters.push((name, value));
        }
        Ok(Self { scheme: scheme.to_ascii_lowercase(), host, port, path: path.to_owned(), parameters })
    }

    /// The value of the only parameter that this scheme knows.
    pub(crate) fn parameter(&self, known: &str) -> Result<Option<&str>, QueueError> {
        match self.parameters.as_slice() {
            [] => Ok(None),
            [(name, value)] if name == known && !value.is_empty() => Ok(Some(value)),
            _ => Err(QueueError::Invalid(format!(
                "after the ? of a {}:// queue only {known}=VALUE is expected, once",
                self.scheme
            ))),
        }
    }

    /// No parameter is known.
    pub(crate) fn no_parameters(&self) -> Result<(), QueueError> {
        if self.parameters.is_empty() {
            return Ok(());
        }
        Err(QueueError::Invalid(format!("a {}:// queue has nothing after a ?", self.scheme)))
    }

    /// The broker, with its scheme's default port.
    pub(crate) fn broker(&self, scheme: &'static str) -> Broker {
        let port = self.port.or_else(|| default_port(scheme)).unwrap_or_default();
        Broker { scheme, host: self.host.clone(), port }
    }
}

// === impl Broker ===

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parts_are_normalised() {
        for (text, expected) in [
            ("beanstalkd://Broker.Shop.:11300/mails", ("beanstalkd", "broker.shop", Some(11300), "mails")),
            ("REDIS://[::0001]:7000/0/a%2Fb", ("redis", "::1", Some(7000), "0/a%2Fb")),
            ("redis://[::1]/0/jobs", ("redis", "::1", None, "0/jobs")),
            ("redis:///0/jobs", ("redis", "", None, "0/jobs")),
            ("file:///var/spool", ("file", "", None, "var/spool")),
            ("redis://10.0.0.7", ("redis", "10.0.0.7", None, "")),
        ] {
            let uri = Uri::parse(text).unwrap();
            assert_eq!((uri.scheme.as_str(), uri.host.as_str(), uri.port, uri.path.as_str()), expected);
        }
        let uri = Uri::parse("redis://a/0/b?group=a%26b").unwrap();
        assert_eq!(uri.parameter("group"), Ok(Some("a&b")));
        assert!(uri.parameter("working").is_err());
    }

    #[test]
    fn what_is_no_uri_is_refused() {
        for text in [
            "",
            "mails",
            "beanstalkd:/a/b",
            "redis://a:0/0/b",
            "redis://a:65536/0/b",
            "redis://a:+1/0/b",
            "redis://a:/0/b",
            "redis://::1/0/b",
            "redis://[::1/0/b",
            "redis://[fe80::1%25eth0]/0/b",
            "redis://[::1]x:1/0/b",
            "redis://a..b/0/c",
            "redis://a_%41/0/b",
            "redis://a/0/b c",
            "redis://a/0/b#c",
            "redis://a/0/b\r\nFLUSHALL",
            "redis://a/0/b?group=%ff",
        ] {
            assert!(matches!(Uri::parse(text), Err(QueueError::Invalid(_))), "{text}");
        }
        assert!(Uri::parse(&format!("redis://a/0/{}", "b".repeat(2048))).is_err());
    }

    #[test]
    fn no_error_repeats_a_password() {
        for text in [
            "redis://user:secret@host/0/jobs",
            "redis://:secret@host:99999/0/jobs",
            "redis://user:secret/7@host/0/jobs",
            "redis://user:secret@/x",
            "redis://host/0/jobs?password=secret@",
        ] {
            let error = Uri::parse(text).unwrap_err();
            assert!(matches!(&error, QueueError::Denied(_)), "{text}: {error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        let error = Uri::parse("redis://user:secret/0/jobs").unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
        let error = Uri::parse("redis://a/0/b?password=secret").unwrap().parameter("group").unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    proptest! {
        #[test]
        fn nothing_panics_and_hosts_stay_as_they_are(text in "([a-z]{0,6}:?/{0,3})?\\PC{0,60}") {
            if let Ok(uri) = Uri::parse(&text) {
                let host = if uri.host.contains(':') { format!("[{}]", uri.host) } else { uri.host.clone() };
                prop_assert!(host.is_empty() || normalise_host(&host) == Some(uri.host));
            }
        }
    }
}
