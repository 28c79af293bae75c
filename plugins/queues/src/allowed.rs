//! Which brokers and folders the workloads' users may name: the operator's list.

use std::{
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path, PathBuf},
};

use percent_encoding::{AsciiSet, CONTROLS, percent_encode};
use scaler_types::QueueError;
use serde::{Deserialize, Deserializer, de};

use crate::uri::{Broker, Uri, default_port, normalise_host, split_port};

/// What a path in a URI cannot have in it.
const PATH: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'?').add(b'@').add(b'\\');

const SCHEMES: [&str; 3] = ["beanstalkd", "redis", "rediss"];

/// The operator's list; empty: nothing is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct AllowedHosts(Vec<AllowedHost>);

/// One entry of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
enum AllowedHost {
    Broker(BrokerName),
    /// Everything below a folder.
    Folder(PathBuf),
}

/// A broker as the operator names it: `broker.shop:11300`, `rediss://redis.shop`, `*.queues.svc.cluster.local`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BrokerName {
    /// None: each scheme.
    scheme: Option<&'static str>,
    host: String,
    /// The hosts below `host`, and not itself.
    is_wildcard: bool,
    /// None: the scheme's default port.
    port: Option<u16>,
}

// === impl AllowedHosts ===

impl AllowedHosts {
    /// Refuses a broker that is not on the list.
    pub(crate) fn check_broker(&self, broker: &Broker) -> Result<(), QueueError> {
        let allows = |entry: &AllowedHost| matches!(entry, AllowedHost::Broker(name) if name.matches(broker));
        if self.0.iter().any(allows) {
            return Ok(());
        }
        Err(denied(&broker.to_string()))
    }

    /// The folders on the list of which one contains this path, by its letters alone: links are not followed.
    pub(crate) fn folders_above(&self, path: &Path) -> Result<Vec<PathBuf>, QueueError> {
        let above = self.0.iter().filter_map(|entry| match entry {
            AllowedHost::Folder(folder) if path.starts_with(folder) => Some(folder.clone()),
            _ => None,
        });
        let above: Vec<_> = above.collect();
        if above.is_empty() { Err(denied_folder(path)) } else { Ok(above) }
    }
}

/// The refusal of a folder that is not on the list.
pub(crate) fn denied_folder(path: &Path) -> QueueError {
    denied(&format!("file://{}", percent_encode(path.as_os_str().as_bytes(), PATH)))
}

/// The refusal of something that is not on the list.
fn denied(entry: &str) -> QueueError {
    QueueError::Denied(format!(
        "the operator has not allowed {entry}: add it to metricSources.queues.allowedHosts in the namespace file, \
         as in allowedHosts: [\"{entry}\"]"
    ))
}

// === impl AllowedHost ===

impl<'de> Deserialize<'de> for AllowedHost {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.starts_with("file:") {
            let folder = Uri::parse(&text).ok().and_then(|uri| folder(&uri));
            return folder.map(Self::Folder).ok_or_else(|| {
                de::Error::custom(format!("{text:?} is no folder, expected one as file:///var/spool/jobs"))
            });
        }
        BrokerName::parse(&text).map(Self::Broker).ok_or_else(|| {
            de::Error::custom(format!(
                "{text:?} is no broker or folder, expected one as broker.shop:11300, \"*.queues.svc.cluster.local\", \
                 rediss://redis.shop:6380 or file:///var/spool/jobs"
            ))
        })
    }
}

/// The path of a `file` URI. None: it names a host, or its path has `.` or `..` in it.
pub(crate) fn folder(uri: &Uri) -> Option<PathBuf> {
    let path = format!("/{}", crate::uri::decode(&uri.path)?);
    let is_plain = |part: &str| part != "." && part != ".." && !part.contains('\0');
    let is_here = (uri.host.is_empty() || uri.host == "localhost") && uri.port.is_none();
    let is_usable = is_here && !uri.path.is_empty() && path.split('/').all(is_plain);
    // Without doubled slashes and a last one.
    let normal = || Path::new(&path).components().filter(|part| !matches!(part, Component::CurDir)).collect();
    is_usable.then(normal)
}

// === impl BrokerName ===

impl BrokerName {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => {
                let scheme = if scheme == "beanstalk" { "beanstalkd" } else { scheme };
                (Some(*SCHEMES.iter().find(|known| **known == scheme)?), rest)
            }
            None => (None, text),
        };
        let (host, port) = split_port(rest)?;
        let (host, is_wildcard) = match host.strip_prefix("*.") {
            // `*.0.0.1` is no name of a domain.
            Some(below) => (below, true),
            None => (host, false),
        };
        let host = normalise_host(host)?;
        let last = host.rsplit('.').next().unwrap_or_default();
        let is_domain = !host.contains(':') && !last.bytes().all(|byte| byte.is_ascii_digit());
        (!is_wildcard || is_domain).then_some(Self { scheme, host, is_wildcard, port })
    }

    /// Whether this names the broker.
    pub(crate) fn matches(&self, broker: &Broker) -> bool {
        let is_host = if self.is_wildcard {
            broker.host.strip_suffix(&self.host).is_some_and(|below| below.len() > 1 && below.ends_with('.'))
        } else {
            broker.host == self.host
        };
        is_host
            && self.scheme.is_none_or(|scheme| scheme == broker.scheme)
            && self.port.or_else(|| default_port(broker.scheme)) == Some(broker.port)
    }
}

impl<'de> Deserialize<'de> for BrokerName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).filter(|name| !name.is_wildcard).ok_or_else(|| {
            de::Error::custom(format!("{text:?} is no broker, expected one as redis.shop:6379"))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn allowed(entries: &[&str]) -> AllowedHosts {
        serde_yaml::from_str(&format!("{entries:?}")).unwrap()
    }

    fn broker(scheme: &'static str, uri: &str) -> Broker {
        Uri::parse(uri).unwrap().broker(scheme)
    }

    #[test]
    fn a_broker_is_compared_in_its_normal_form() {
        let list = allowed(&[
            "Broker.Shop.:11300",
            "*.queues.svc.cluster.local",
            "rediss://tls.shop:6380",
            "[0:0::1]:6379",
            "plain.shop",
        ]);
        for (scheme, uri, is_allowed) in [
            ("beanstalkd", "beanstalkd://broker.shop/mails", true),
            ("beanstalkd", "beanstalkd://BROKER.shop.:11300/mails", true),
            ("beanstalkd", "beanstalkd://broker.shop:11301/mails", false),
            ("redis", "redis://broker.shop:11300/0/a", true),
            ("redis", "redis://broker.shop/0/a", false),
            ("beanstalkd", "beanstalkd://mails.queues.svc.cluster.local/a", true),
            ("beanstalkd", "beanstalkd://0.mails.queues.svc.cluster.local/a", true),
            ("beanstalkd", "beanstalkd://mails.queues.svc.cluster.local:22/a", false),
            ("beanstalkd", "beanstalkd://queues.svc.cluster.local/a", false),
            ("beanstalkd", "beanstalkd://evilqueues.svc.cluster.local/a", false),
            ("beanstalkd", "beanstalkd://mails.queues.svc.cluster.local.evil.example/a", false),
            ("rediss", "rediss://tls.shop:6380/0/a", true),
            ("redis", "redis://tls.shop:6380/0/a", false),
            ("redis", "redis://[::1]/0/a", true),
            ("redis", "redis://[::2]/0/a", false),
            ("redis", "redis://plain.shop/0/a", true),
            ("redis", "redis://plain.shop:6380/0/a", false),
        ] {
            assert_eq!(list.check_broker(&broker(scheme, uri)).is_ok(), is_allowed, "{uri}");
        }
    }

    #[test]
    fn a_refusal_has_the_entry_that_allows_it() {
        for (scheme, uri) in [
            ("beanstalkd", "beanstalkd://Broker.shop/mails"),
            ("redis", "redis://[::1]:7000/0/a"),
            ("rediss", "rediss://10.0.0.1/0/a"),
        ] {
            let broker = broker(scheme, uri);
            let error = AllowedHosts::default().check_broker(&broker).unwrap_err().to_string();
            let entry = error.split("allowedHosts: [\"").nth(1).unwrap().split('"').next().unwrap();
            assert_eq!(allowed(&[entry]).check_broker(&broker), Ok(()), "{error}");
        }
        for (path, entry) in [
            ("/var/spool/jobs", "file:///var/spool/jobs"),
            ("/srv/my jobs@100%", "file:///srv/my%20jobs%40100%25"),
        ] {
            let error = AllowedHosts::default().folders_above(Path::new(path)).unwrap_err().to_string();
            assert!(error.contains(&format!("allowedHosts: [\"{entry}\"]")), "{error}");
            assert!(allowed(&[entry]).folders_above(Path::new(path)).is_ok(), "{entry}");
        }
    }

    #[test]
    fn a_folder_allows_what_is_below_it() {
        let list = allowed(&["file:///var//spool/jobs/", "file:///srv/my%20jobs"]);
        for (path, is_allowed) in [
            ("/var/spool/jobs", true),
            ("/var/spool/jobs/mails", true),
            ("/var/spool/jobs2", false),
            ("/var/spool", false),
            ("/srv/my jobs/a", true),
        ] {
            assert_eq!(list.folders_above(Path::new(path)).is_ok(), is_allowed, "{path}");
        }
        for uri in [
            "file:///var/spool/jobs/../../x",
            "file:///var/%2e%2e/x",
            "file://host/var",
            "file://",
            "file:///a%00",
        ] {
            assert_eq!(folder(&Uri::parse(uri).unwrap()), None, "{uri}");
        }
        for uri in ["file://localhost/var/a", "file:///var//a/"] {
            assert_eq!(folder(&Uri::parse(uri).unwrap()), Some("/var/a".into()), "{uri}");
        }
    }

    #[test]
    fn an_entry_that_means_nothing_is_refused() {
        for entry in [
            "",
            "*",
            "*.",
            "*.0.0.1",
            "*.[::1]",
            "a b",
            "http://a",
            "a:b",
            "a/b",
            "file:var",
            "file:///a/../b",
            "user@a",
        ] {
            let parsed = serde_yaml::from_str::<AllowedHosts>(&format!("[{entry:?}]"));
            assert!(parsed.is_err(), "{entry:?}: {parsed:?}");
        }
    }

    proptest! {
        #[test]
        fn an_entry_never_panics_and_allows_itself(text in "\\PC{0,40}", name in "[a-z0-9.*:-]{1,20}") {
            let _ = BrokerName::parse(&text);
            if let Some(entry) = BrokerName::parse(&name).filter(|entry| !entry.is_wildcard) {
                let port = entry.port.unwrap_or(6379);
                let broker = Broker { scheme: "redis", host: entry.host.clone(), port };
                prop_assert!(entry.matches(&broker));
            }
        }
    }
}
