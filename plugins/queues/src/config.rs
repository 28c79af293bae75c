//! `metricSources.queues` of a namespace file: what the operator sets.

use std::{collections::BTreeMap, path::PathBuf};
#[cfg(feature = "redis")]
use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    os::unix::fs::MetadataExt as _,
};

use serde::{Deserialize, Deserializer, de};

use crate::allowed::{AllowedHosts, BrokerName};
#[cfg(feature = "redis")]
use crate::uri::Broker;

/// The keys of `metricSources.queues`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct QueuesSection {
    pub(crate) allowed_hosts: AllowedHosts,
    credentials: BTreeMap<BrokerName, BrokerCredentials>,
}

/// How to log in at a broker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct BrokerCredentials {
    #[serde(deserialize_with = "absolute")]
    pub(crate) username_file: Option<PathBuf>,
    #[serde(deserialize_with = "absolute")]
    pub(crate) password_file: Option<PathBuf>,
    /// Certificates that a broker's own is signed by, instead of the machine's.
    #[serde(deserialize_with = "absolute")]
    pub(crate) ca_file: Option<PathBuf>,
}

fn absolute<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    if !path.is_absolute() {
        return Err(de::Error::custom(format!("{} is no absolute path, expected one", path.display())));
    }
    Ok(Some(path))
}

#[cfg(feature = "redis")]
impl QueuesSection {
    pub(crate) fn credentials(&self, broker: &Broker) -> BrokerCredentials {
        let found = self.credentials.iter().find(|(name, _)| name.matches(broker));
        found.map(|(_, credentials)| credentials.clone()).unwrap_or_default()
    }
}

#[cfg(feature = "redis")]
impl BrokerCredentials {
    /// A number that is another one once one of the files was written or replaced.
    pub(crate) fn version(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for file in [&self.username_file, &self.password_file, &self.ca_file].into_iter().flatten() {
            let read = file.metadata().map(|file| (file.ino(), file.len(), file.mtime(), file.mtime_nsec()));
            read.ok().hash(&mut hasher);
        }
        hasher.finish()
    }
}
