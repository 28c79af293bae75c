//! The registry of DLX ports: which one is assigned to which port of which Service.
//!
//! One ConfigMap in the daemons' own namespace, a key per port, so that no two daemons and no two namespace files assign the
//! same port to two Services. A freed port stays where it is, marked, and is not assigned to another Service for a while: a node
//! that is behind, or a client that has kept an address, may still use it.

use std::collections::{BTreeMap, HashMap, HashSet};

use k8s_openapi::api::core::v1::ConfigMap;
use scaler_types::ServicePorts;
use serde::{Deserialize, Serialize};

use super::Meta;
use crate::ascii;

/// The ConfigMap's name.
pub(crate) const NAME: &str = "scaler-service-ports";

/// The key with the number of Services that hold a port: those that are intercepted, and those that are about to be. An admission
/// policy reads it: while it is above 0, Scaler cannot be deleted. It is written with the ports it is counted from, in one write.
pub(crate) const INTERCEPTED: &str = "intercepted";

/// A port of a Service, to which a DLX port is assigned.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct PortHolder {
    pub(crate) namespace: String,
    pub(crate) service: String,
    /// Its uid: another Service of that name is another one.
    pub(crate) uid: String,
    /// Its port's name; empty where it has none.
    pub(crate) port: String,
}

/// The fields kept of one port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PortEntry {
    /// Whose it is, or was.
    #[serde(flatten)]
    pub(crate) holder: PortHolder,
    /// When it was freed, by the writer's clock. Shown; compared with nothing but itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) freed_at: Option<String>,
}

/// The registry as it stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PortRegistry {
    pub(crate) meta: Meta,
    /// Its `resourceVersion` as it stands.
    pub(crate) resource_version: String,
    /// It has the map that the ports are in.
    pub(crate) has_data: bool,
    /// Ports in use; `None`: by something that cannot be read, and is left alone.
    pub(crate) ports: BTreeMap<u16, Option<PortEntry>>,
    /// Each Service's ports, by its uid.
    pub(crate) of: HashMap<String, Vec<u16>>,
    /// How many Services it says hold a port.
    intercepted: usize,
    holding: usize,
}

// === impl PortEntry ===

impl PortEntry {
    pub(crate) fn held_by(holder: &PortHolder) -> Self {
        Self { holder: holder.clone(), freed_at: None }
    }

    pub(crate) fn text(&self) -> String {
        ascii::text(self)
    }
}

// === impl PortRegistry ===

impl PortRegistry {
    /// The entry of a port.
    pub(crate) fn get(&self, port: u16) -> Option<&PortEntry> {
        self.ports.get(&port)?.as_ref()
    }

    /// Whether something has the port.
    pub(crate) fn has(&self, port: u16) -> bool {
        self.ports.contains_key(&port)
    }

    /// All entries that can be read.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (u16, &PortEntry)> {
        self.ports.iter().filter_map(|(port, entry)| Some((*port, entry.as_ref()?)))
    }

    /// A Service's entries, freed ones among them.
    pub(crate) fn entries_of(&self, uid: &str) -> impl Iterator<Item = (u16, &PortEntry)> {
        let ports = self.of.get(uid).into_iter().flatten();
        ports.filter_map(|port| Some((*port, self.get(*port)?)))
    }

    /// The port that a Service's port has now.
    pub(crate) fn held(&self, holder: &PortHolder, range: ServicePorts) -> Option<u16> {
        let mut its = self.entries_of(&holder.uid);
        its.find(|(port, entry)| {
            range.contains(*port) && entry.freed_at.is_none() && entry.holder.port == holder.port
        })
        .map(|(port, _)| port)
    }

    /// The same, if it has no other one beside it.
    pub(crate) fn only(&self, holder: &PortHolder, range: ServicePorts) -> Option<u16> {
        let mut its = self
            .entries_of(&holder.uid)
            .filter(|(_, entry)| entry.holder == *holder && entry.freed_at.is_none());
        let (port, _) = its.next()?;
        (range.contains(port) && its.next().is_none()).then_some(port)
    }

    /// Whether it says how many Services hold a port.
    pub(crate) fn is_counted(&self) -> bool {
        self.intercepted == self.holding
    }
}

impl From<ConfigMap> for PortRegistry {
    fn from(map: ConfigMap) -> Self {
        let meta = Meta::from(&map.metadata);
        let has_data = map.data.is_some();
        let count = map.data.as_ref().and_then(|data| data.get(INTERCEPTED));
        let intercepted = count.and_then(|text| text.parse().ok()).unwrap_or(0);
        let keys = map.data.into_iter().flatten();
        let ports: BTreeMap<u16, _> = keys
            .filter_map(|(key, text)| {
                Some((key.parse().ok()?, serde_json::from_str::<PortEntry>(&text).ok()))
            })
            .collect();
        let mut of: HashMap<String, Vec<u16>> = HashMap::new();
        for (port, entry) in &ports {
            if let Some(entry) = entry {
                of.entry(entry.holder.uid.clone()).or_default().push(*port);
            }
        }
        Self {
            meta,
            resource_version: map.metadata.resource_version.unwrap_or_default(),
            has_data,
            intercepted,
            holding: holding(&ports),
            ports,
            of,
        }
    }
}

/// How many Services hold a port.
pub(crate) fn holding(ports: &BTreeMap<u16, Option<PortEntry>>) -> usize {
    let held = ports.values().flatten().filter(|entry| entry.freed_at.is_none());
    held.map(|entry| &entry.holder.uid).collect::<HashSet<_>>().len()
}
