//! The route table, replaced as a whole when hosts or ports change.

use std::{collections::HashMap, sync::Arc};

use http::HeaderName;
use scaler_types::{Port, ResourceId};

use super::{ResourceHandle, host};

/// A port of its own says for whom a connection is.
#[derive(Clone, Debug)]
pub(crate) struct PortOwner {
    /// For whom.
    pub(crate) resource: Arc<ResourceHandle>,
    /// Which port.
    pub(crate) port: Port,
}

/// Which host, and which port of this DLX, is whose.
#[derive(Debug, Default)]
pub(crate) struct HostTable {
    hosts: HashMap<Box<str>, Arc<ResourceHandle>>,
    names: HashMap<ResourceId, Arc<ResourceHandle>>,
    ports: HashMap<u16, PortOwner>,
    /// Hosts and ports that two resources claim.
    pub(crate) conflicts: Vec<Conflict>,
    /// Headers that name a resource, when they come from a trusted peer.
    pub(crate) name_headers: Vec<NameHeader>,
}

/// What two resources claim.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Claim {
    /// A host.
    Host(String),
    /// A port of this DLX.
    Port(u16),
}

/// A host or port that two resources claim.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Conflict {
    /// What.
    #[serde(flatten)]
    pub(crate) claim: Claim,
    /// Who has it.
    #[serde(serialize_with = "as_text")]
    pub(crate) has: ResourceId,
    /// Who wants it too.
    #[serde(serialize_with = "as_text")]
    pub(crate) wants: ResourceId,
}

/// A header that names a resource, and the one that says under which path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NameHeader {
    /// Names the resource.
    pub(crate) name: HeaderName,
    /// Where the path comes from.
    pub(crate) path: Option<PathHeader>,
}

/// A header that says under which path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PathHeader {
    /// It is the whole path and query.
    Whole(HeaderName),
    /// It stands before the request's own.
    Prefix(HeaderName),
}

fn as_text<S: serde::Serializer>(id: &ResourceId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

// === impl HostTable ===

impl HostTable {
    /// A table of `entries`, the oldest first: of two that claim one host or port the first has it.
    pub(crate) fn new(entries: &[Arc<ResourceHandle>], name_headers: Vec<NameHeader>) -> Self {
        let mut table = Self { name_headers, ..Self::default() };
        for resource in entries {
            let (gone, hosts, ports) =
                resource.read(|view| (view.gone, view.resource.hosts.clone(), view.resource.ports.clone()));
            if gone {
                continue;
            }
            table.names.entry(resource.key.id.clone()).or_insert_with(|| resource.clone());
            let conflict = |has: &Arc<ResourceHandle>, claim| {
                let ids = (has.key.id.clone(), resource.key.id.clone());
                (!Arc::ptr_eq(has, resource)).then_some(Conflict { claim, has: ids.0, wants: ids.1 })
            };
            for host in hosts {
                match table.hosts.get(host.as_str()) {
                    Some(has) => table.conflicts.extend(conflict(has, Claim::Host(host))),
                    None => {
                        table.hosts.insert(host.into(), resource.clone());
                    }
                }
            }
            for port in ports {
                match table.ports.get(&port.listen) {
                    Some(has) => table.conflicts.extend(conflict(&has.resource, Claim::Port(port.listen))),
                    None => {
                        table.ports.insert(port.listen, PortOwner { resource: resource.clone(), port });
                    }
                }
            }
        }
        table
    }

    /// Whose a `Host` or `:authority` is.
    pub(crate) fn by_host(&self, authority: &str) -> Option<&Arc<ResourceHandle>> {
        self.hosts.get(host::lookup_form(authority, &mut [0; 262])?)
    }

    /// Whose a port is.
    pub(crate) fn by_port(&self, port: u16) -> Option<&PortOwner> {
        self.ports.get(&port)
    }

    /// All ports that are somebody's.
    pub(crate) fn ports(&self) -> impl Iterator<Item = &PortOwner> {
        self.ports.values()
    }

    /// The resource of this name. Without a namespace: the one in `default`, else the only one of that name.
    pub(crate) fn by_name(&self, name: &str, default: Option<&str>) -> Option<&Arc<ResourceHandle>> {
        if let Some((namespace, name)) = name.split_once('/') {
            return self.names.get(&ResourceId::new(namespace, name));
        }
        let in_default = default.and_then(|namespace| self.names.get(&ResourceId::new(namespace, name)));
        in_default.or_else(|| {
            let mut named = self.names.iter().filter(|(id, _)| id.name == name);
            let (_, only) = named.next()?;
            named.next().is_none().then_some(only)
        })
    }
}
