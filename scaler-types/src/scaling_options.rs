//! How many replicas, as users write it: in annotations (`scaler.dev/messages-per-replica`) and, as keys, in files
//! (`messagesPerReplica`).

use std::{str::FromStr, time::Duration};

use serde::Deserialize;

use crate::{Disruption, Scaling, ScalingMetric};

/// The most replicas that a cluster's API can say.
const MAX_REPLICAS: u32 = i32::MAX as u32;

/// The options that make a [`Scaling`], each as it was written. In a file the keys of a map.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ScalingOptions {
    /// `queue`: URIs of queues, separated by commas.
    #[serde(rename = "queue", deserialize_with = "keys::queues")]
    pub queues: Vec<String>,
    /// `messages-per-replica`.
    #[serde(deserialize_with = "keys::target")]
    pub messages_per_replica: Option<f64>,
    /// `seconds-per-message`.
    #[serde(deserialize_with = "keys::target")]
    pub seconds_per_message: Option<f64>,
    /// `in-flight-per-replica`.
    #[serde(deserialize_with = "keys::target")]
    pub in_flight_per_replica: Option<f64>,
    /// `requests-per-replica`, per second.
    #[serde(deserialize_with = "keys::target")]
    pub requests_per_replica: Option<f64>,
    /// Metrics of the namespace file's source that have a target. Not a key of its own: each is an entry of the resource's metrics.
    #[serde(skip)]
    pub metrics: Vec<ScalingMetric>,
    /// `min-replicas`.
    #[serde(deserialize_with = "keys::replicas")]
    pub min_replicas: Option<u32>,
    /// `max-replicas`.
    #[serde(deserialize_with = "keys::replicas")]
    pub max_replicas: Option<u32>,
    /// `max-disruption`: a count, or a percentage.
    #[serde(deserialize_with = "keys::disruption")]
    pub max_disruption: Option<Disruption>,
    /// `scale-down-delay`.
    #[serde(deserialize_with = "keys::delay")]
    pub scale_down_delay: Option<Duration>,
    /// `busy-probe`.
    #[serde(deserialize_with = "keys::busy_probe")]
    pub busy_probe: Option<BusyProbe>,
    /// `early-ack: accepted`.
    #[serde(deserialize_with = "keys::accepted")]
    pub early_ack: bool,
}

/// Where each replica says whether it is busy, as in `http://:9000/busy`: 2xx is busy, 204 or 404 idle, anything else unknown.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BusyProbe {
    /// The replica's port.
    pub port: u16,
    /// The path to ask for, beginning with `/`.
    pub path: String,
}

// === impl ScalingOptions ===

impl ScalingOptions {
    /// Whether any metric has a target per replica.
    pub fn has_target(&self) -> bool {
        self.messages_per_replica.is_some() || self.counts_requests() || !self.metrics.is_empty()
    }

    /// Whether it is scaled by its requests: they have to pass the DLXs.
    pub fn counts_requests(&self) -> bool {
        self.in_flight_per_replica.is_some() || self.requests_per_replica.is_some()
    }

    /// Whether something else than a request can wake it.
    pub fn wakes_by_metric(&self) -> bool {
        !self.queues.is_empty() || !self.metrics.is_empty()
    }

    /// What the options mean together; none: without any target others decide how many replicas there are.
    ///
    /// `name`: how an option (`max-replicas`) is called where it was written.
    ///
    /// # Errors
    ///
    /// One needs another, which is missing: which, and what to do.
    pub fn scaling(&self, name: impl Fn(&str) -> String) -> Result<Option<Scaling>, String> {
        let targets = || {
            let all = ["messages-per-replica", "in-flight-per-replica", "requests-per-replica"].map(&name);
            format!("{}, or a metric with targetPerReplica", all.join(", "))
        };
        let (queue, messages) = (name("queue"), name("messages-per-replica"));
        if !self.queues.is_empty() && self.messages_per_replica.is_none() {
            return Err(format!(
                "{queue} needs {messages}: set how many messages one replica is for, as in 20"
            ));
        }
        if self.queues.is_empty() {
            for (option, is_set) in [
                ("messages-per-replica", self.messages_per_replica.is_some()),
                ("seconds-per-message", self.seconds_per_message.is_some()),
                ("early-ack", self.early_ack),
            ] {
                if is_set {
                    let option = name(option);
                    return Err(format!(
                        "{option} needs {queue}: name the queue, as in beanstalkd://broker:11300/mails, or remove {option}"
                    ));
                }
            }
        }
        if !self.has_target() {
            for (option, is_set) in [
                ("min-replicas", self.min_replicas.is_some()),
                ("max-replicas", self.max_replicas.is_some()),
                ("max-disruption", self.max_disruption.is_some()),
                ("scale-down-delay", self.scale_down_delay.is_some()),
            ] {
                if is_set {
                    let option = name(option);
                    return Err(format!(
                        "{option} needs a target per replica ({}): set one, or remove {option}",
                        targets()
                    ));
                }
            }
            return Ok(None);
        }
        let Some(max_replicas) = self.max_replicas else {
            return Err(format!("a target per replica needs {}: set it, as in 10", name("max-replicas")));
        };
        let defaults = Scaling::up_to(max_replicas);
        Ok(Some(Scaling {
            min_replicas: self.min_replicas.unwrap_or(defaults.min_replicas),
            queues: self.queues.clone(),
            messages_per_replica: self.messages_per_replica,
            seconds_per_message: self.seconds_per_message,
            in_flight_per_replica: self.in_flight_per_replica,
            requests_per_replica: self.requests_per_replica,
            metrics: self.metrics.clone(),
            max_disruption: self.max_disruption.unwrap_or(defaults.max_disruption),
            scale_down_delay: self.scale_down_delay.unwrap_or(defaults.scale_down_delay),
            has_busy_probe: self.busy_probe.is_some(),
            early_ack: self.early_ack,
            ..defaults
        }))
    }

    /// What is probably not meant, though it has a meaning.
    ///
    /// `name`: how an option is called where it was written.
    pub fn mistake(&self, name: impl Fn(&str) -> String) -> Option<String> {
        let (min, max) = (self.min_replicas?, self.max_replicas?);
        (min > max).then(|| {
            format!(
                "{} {min} is more than {} {max}, which takes precedence: it gets {max} at most",
                name("min-replicas"),
                name("max-replicas")
            )
        })
    }
}

/// An option's name as a key of a file: `maxReplicas` for `max-replicas`.
///
/// ```
/// assert_eq!(scaler_types::scaling_options::key_name("messages-per-replica"), "messagesPerReplica");
/// ```
pub fn key_name(option: &str) -> String {
    let mut words = option.split('-');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |key, word| {
        let (initial, rest) = word.split_at(word.len().min(1));
        key + &initial.to_ascii_uppercase() + rest
    })
}

/// Reads a number above 0: how much one replica is for.
///
/// # Errors
///
/// It is not one: what was expected.
pub fn parse_target(text: &str) -> Result<f64, String> {
    let number = text.trim().parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| format!("{text:?} is not valid, expected a number above 0, as in 20 or 0.5"))
}

/// Reads a count of replicas.
///
/// # Errors
///
/// It is not one: what was expected.
pub fn parse_replicas(text: &str) -> Result<u32, String> {
    let count = text.trim().parse().ok().filter(|count| *count <= MAX_REPLICAS);
    count.ok_or_else(|| {
        format!("{text:?} is not valid, expected a whole number of replicas from 0 to {MAX_REPLICAS}")
    })
}

/// Reads the URIs of queues, separated by commas.
///
/// # Errors
///
/// One is not a URI, or has a user name or a password in it (which is not repeated): what was expected.
pub fn parse_queues(text: &str) -> Result<Vec<String>, String> {
    let expected = "expected URIs of queues, separated by commas, as in beanstalkd://broker:11300/mails";
    let mut queues = Vec::new();
    for uri in text.split(',').map(str::trim) {
        let (scheme, rest) = uri.split_once("://").unwrap_or_default();
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        // Also `scheme:user@host`, and a path with one: what a password may be in is not repeated.
        if authority.contains('@') || rest.is_empty() && uri.contains('@') {
            return Err(format!(
                "a queue has a user name or a password in its URI, {expected}: the operator gives credentials in the \
                 namespace file"
            ));
        }
        let is_scheme = scheme.starts_with(|letter: char| letter.is_ascii_lowercase())
            && scheme.chars().all(|letter| {
                letter.is_ascii_lowercase() || letter.is_ascii_digit() || "+.-".contains(letter)
            });
        if !is_scheme
            || rest.is_empty()
            || rest.contains(|letter: char| letter.is_whitespace() || letter.is_control())
        {
            return Err(format!("{uri:?} is not the URI of a queue, {expected}"));
        }
        if queues.iter().any(|queue| queue == uri) {
            return Err(format!("the queue {uri} is there twice, expected it once"));
        }
        queues.push(uri.to_owned());
    }
    Ok(queues)
}

/// Reads `accepted`.
///
/// # Errors
///
/// It is another word: what was expected.
pub fn parse_accepted(text: &str) -> Result<bool, String> {
    match text.trim() {
        "accepted" => Ok(true),
        _ => Err(format!(
            "{text:?} is not valid, expected accepted: workers take a message off the queue before they have done its work, \
             and you accept that such work is cut off"
        )),
    }
}

impl FromStr for Disruption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let trimmed = text.trim();
        let read = match trimmed.strip_suffix('%') {
            Some(percent) => {
                percent.trim_end().parse().ok().filter(|percent| *percent <= 100).map(Self::Percent)
            }
            None => trimmed.parse().ok().map(Self::Replicas),
        };
        read.ok_or_else(|| format!("{text:?} is not valid, expected a count or a percentage, as in 2 or 25%"))
    }
}

impl FromStr for BusyProbe {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = text.trim().strip_prefix("http://:").and_then(|rest| {
            let (port, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let port = port.parse().ok().filter(|port| *port > 0)?;
            let is_path = path.chars().all(|letter| letter.is_ascii_graphic() && letter != '#');
            is_path.then(|| Self { port, path: if path.is_empty() { "/" } else { path }.to_owned() })
        });
        read.ok_or_else(|| {
            format!(
                "{text:?} is not valid, expected a port and a path of the replica, as in http://:9000/busy"
            )
        })
    }
}

/// Reading the options as keys of a file, for `#[serde(deserialize_with = ...)]`.
pub mod keys {
    use serde::{Deserializer, de};

    use super::*;
    use crate::duration;

    /// As [`parse_queues`].
    pub fn queues<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
        text(deserializer, parse_queues)
    }

    /// As [`parse_target`].
    pub fn target<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
        text(deserializer, parse_target).map(Some)
    }

    /// As [`parse_replicas`].
    pub fn replicas<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
        text(deserializer, parse_replicas).map(Some)
    }

    /// A [`Disruption`].
    pub fn disruption<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Disruption>, D::Error> {
        text(deserializer, str::parse).map(Some)
    }

    /// A duration with its unit.
    pub fn delay<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        text(deserializer, |text| duration::parse(text).map_err(|error| error.to_string())).map(Some)
    }

    /// A [`BusyProbe`].
    pub fn busy_probe<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<BusyProbe>, D::Error> {
        text(deserializer, str::parse).map(Some)
    }

    /// As [`parse_accepted`].
    pub fn accepted<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
        text(deserializer, parse_accepted)
    }

    fn text<'de, D: Deserializer<'de>, T>(
        deserializer: D,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, D::Error> {
        parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml;

    fn options(text: &str) -> Result<ScalingOptions, String> {
        serde_yaml::from_str_with_options(text, yaml::options()).map_err(|error| yaml::explain("f", &error))
    }

    #[test]
    fn every_option_is_read_from_a_file() {
        let all = options(
            "queue: 'redis://r/0/a, file:///spool'\nmessagesPerReplica: 20\nsecondsPerMessage: 0.5\ninFlightPerReplica: 8\n\
             requestsPerReplica: 100\nminReplicas: 2\nmaxReplicas: 30\nmaxDisruption: 25%\nscaleDownDelay: 1m\n\
             busyProbe: http://:9000/busy\nearlyAck: accepted\n",
        )
        .unwrap();
        let scaling = all.scaling(key_name).unwrap().unwrap();
        let expected = Scaling {
            min_replicas: 2,
            queues: vec!["redis://r/0/a".to_owned(), "file:///spool".to_owned()],
            messages_per_replica: Some(20.0),
            seconds_per_message: Some(0.5),
            in_flight_per_replica: Some(8.0),
            requests_per_replica: Some(100.0),
            max_disruption: Disruption::Percent(25),
            scale_down_delay: Duration::from_secs(60),
            has_busy_probe: true,
            early_ack: true,
            ..Scaling::up_to(30)
        };
        assert_eq!(scaling, expected);
        assert_eq!(options("maxDisruption: 3\n").unwrap().max_disruption, Some(Disruption::Replicas(3)));
        assert_eq!(options("{}").unwrap(), ScalingOptions::default());
    }

    #[test]
    fn a_value_that_cannot_be_used_says_what_was_expected() {
        for (key, value, expected) in [
            ("queue", "mails", "\"mails\" is not the URI of a queue"),
            ("queue", "\"\"", "is not the URI of a queue"),
            ("queue", "'redis://r/0/a,'", "is not the URI of a queue"),
            ("queue", "redis://", "is not the URI of a queue"),
            ("queue", "'redis://r/0/a b'", "is not the URI of a queue"),
            ("queue", "'Redis://r/0/a'", "is not the URI of a queue"),
            ("queue", "'redis://r/0/a,redis://r/0/a'", "is there twice"),
            ("messagesPerReplica", "0", "a number above 0"),
            ("messagesPerReplica", "-1", "a number above 0"),
            ("messagesPerReplica", ".inf", "a number above 0"),
            ("secondsPerMessage", "'1s'", "a number above 0"),
            ("inFlightPerReplica", "many", "a number above 0"),
            ("requestsPerReplica", "NaN", "a number above 0"),
            ("minReplicas", "-1", "a whole number of replicas"),
            ("maxReplicas", "2.5", "a whole number of replicas"),
            ("maxReplicas", "2147483648", "a whole number of replicas"),
            ("maxDisruption", "101%", "as in 2 or 25%"),
            ("maxDisruption", "half", "as in 2 or 25%"),
            ("scaleDownDelay", "5", "is not a duration"),
            ("busyProbe", "http://localhost:9000/busy", "as in http://:9000/busy"),
            ("busyProbe", "http://:0/busy", "as in http://:9000/busy"),
            ("busyProbe", "'http://:80/a b'", "as in http://:9000/busy"),
            ("earlyAck", "'true'", "expected accepted"),
            ("queues", "redis://r/0/a", "unknown key \"queues\""),
        ] {
            let error = options(&format!("{key}: {value}\n")).unwrap_err();
            assert!(error.contains(expected) && error.starts_with("f:1:"), "{key}: {value}: {error}");
        }
    }

    #[test]
    fn a_password_in_a_queue_is_refused_and_not_repeated() {
        for uri in ["redis://:secret@r/0/a", "redis://me:secret@r", "redis:secret@r"] {
            let error = parse_queues(uri).unwrap_err();
            assert!(error.contains("credentials") && !error.contains("secret"), "{uri}: {error}");
        }
        assert!(parse_queues("redis://r/0/a@b").is_ok(), "in a queue's name it is none");
    }

    #[test]
    fn an_option_that_needs_another_says_which() {
        for (text, expected) in [
            ("{queue: 'redis://r/0/a', maxReplicas: 3}", "queue needs messagesPerReplica"),
            ("{messagesPerReplica: 3, maxReplicas: 3}", "messagesPerReplica needs queue"),
            (
                "{secondsPerMessage: 3, inFlightPerReplica: 1, maxReplicas: 3}",
                "secondsPerMessage needs queue",
            ),
            ("{earlyAck: accepted}", "earlyAck needs queue"),
            ("{queue: 'redis://r/0/a', messagesPerReplica: 3}", "a target per replica needs maxReplicas"),
            ("{inFlightPerReplica: 3, minReplicas: 3}", "a target per replica needs maxReplicas"),
            ("{maxReplicas: 3}", "maxReplicas needs a target per replica (messagesPerReplica, "),
            ("{minReplicas: 3}", "minReplicas needs a target"),
            ("{maxDisruption: 3}", "maxDisruption needs a target"),
            ("{scaleDownDelay: 3s}", "scaleDownDelay needs a target"),
        ] {
            let error = options(text).unwrap().scaling(key_name).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        for none in ["{}", "{busyProbe: 'http://:9000'}"] {
            assert_eq!(options(none).unwrap().scaling(key_name), Ok(None), "{none}");
        }
        let crossed = options("{requestsPerReplica: 1, minReplicas: 4, maxReplicas: 3}").unwrap();
        assert_eq!(crossed.scaling(key_name).unwrap().unwrap().max_replicas, 3);
        assert!(crossed.mistake(key_name).unwrap().contains("minReplicas 4 is more than maxReplicas 3"));
        assert_eq!(options("{minReplicas: 3, maxReplicas: 3}").unwrap().mistake(key_name), None);
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = (parse_target(&text), parse_replicas(&text), parse_queues(&text), parse_accepted(&text));
            let _ = (text.parse::<Disruption>(), text.parse::<BusyProbe>());
        }
    }
}
