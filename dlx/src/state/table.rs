//! The owners of hosts and ports; replaced as a whole when they change.

use std::{collections::HashMap, sync::Arc};

use http::HeaderName;
use scaler_types::{Port, ResourceId};

use super::{ResourceHandle, host};

/// A port of this DLX and the resource that owns it.
#[derive(Clone, Debug)]
pub(crate) struct PortOwner {
    /// The resource.
    pub(crate) resource: Arc<ResourceHandle>,
    /// The port.
    pub(crate) port: Port,
}

/// The owners of hosts and of this DLX's ports.
#[derive(Debug, Default)]
pub(crate) struct HostTable {
    hosts: HashMap<Box<str>, Arc<ResourceHandle>>,
    names: HashMap<ResourceId, Arc<ResourceHandle>>,
    ports: HashMap<u16, PortOwner>,
    /// Hosts and ports that two resources claim.
    pub(crate) conflicts: Vec<Conflict>,
    /// Headers by which a trusted peer names a resource.
    pub(crate) name_headers: Vec<NameHeader>,
}

/// A host or port that two resources claim.
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
    /// The host or port.
    #[serde(flatten)]
    pub(crate) claim: Claim,
    /// The resource that has it.
    #[serde(serialize_with = "as_text")]
    pub(crate) has: ResourceId,
    /// The resource that claims it too.
    #[serde(serialize_with = "as_text")]
    pub(crate) wants: ResourceId,
}

/// A header that names a resource, and the header for the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NameHeader {
    /// Names the resource.
    pub(crate) name: HeaderName,
    /// The header for the path.
    pub(crate) path: Option<PathHeader>,
}

/// A header for the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PathHeader {
    /// It holds the whole path and query.
    Whole(HeaderName),
    /// It is a prefix of the request's own path.
    Prefix(HeaderName),
}

fn as_text<S: serde::Serializer>(id: &ResourceId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

// === impl HostTable ===

impl HostTable {
    /// Builds the table from `entries`, the oldest first: of two that claim a host or port the first has it.
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

    /// The owner of a `Host` or `:authority`.
    pub(crate) fn by_host(&self, authority: &str) -> Option<&Arc<ResourceHandle>> {
        self.hosts.get(host::lookup_form(authority, &mut [0; 262])?)
    }

    /// The owner of a port.
    pub(crate) fn by_port(&self, port: u16) -> Option<&PortOwner> {
        self.ports.get(&port)
    }

    /// All ports that have an owner.
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
