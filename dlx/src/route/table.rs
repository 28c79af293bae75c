//! The route table, replaced as a whole when hosts change.

use std::{collections::HashMap, sync::Arc};

use http::HeaderName;
use scaler_types::ResourceId;

use super::host;
use crate::resource::Entry;

/// Which host is whose.
#[derive(Debug, Default)]
pub struct Table {
    hosts: HashMap<Box<str>, Arc<Entry>>,
    names: HashMap<ResourceId, Arc<Entry>>,
    /// Hosts that two resources claim.
    pub conflicts: Vec<Conflict>,
    /// Headers that name a resource, when they come from a trusted peer.
    pub name_headers: Vec<NameHeader>,
}

/// A host that two resources claim.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Conflict {
    /// The host.
    pub host: String,
    /// Who has it.
    #[serde(serialize_with = "as_text")]
    pub has: ResourceId,
    /// Who wants it too.
    #[serde(serialize_with = "as_text")]
    pub wants: ResourceId,
}

/// A header that names a resource, and the one that says under which path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameHeader {
    /// Names the resource.
    pub name: HeaderName,
    /// Where the path comes from.
    pub path: Option<PathHeader>,
}

/// A header that says under which path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathHeader {
    /// It is the whole path and query.
    Whole(HeaderName),
    /// It stands before the request's own.
    Prefix(HeaderName),
}

fn as_text<S: serde::Serializer>(id: &ResourceId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

// === impl Table ===

impl Table {
    /// A table of `entries`, the oldest first: of two that claim one host the first has it.
    pub fn new(entries: &[Arc<Entry>], name_headers: Vec<NameHeader>) -> Self {
        let mut table = Self { name_headers, ..Self::default() };
        for entry in entries {
            let (gone, hosts) = entry.read(|view| (view.gone, view.resource.hosts.clone()));
            if gone {
                continue;
            }
            table.names.entry(entry.key.id.clone()).or_insert_with(|| entry.clone());
            for host in hosts {
                match table.hosts.get(host.as_str()) {
                    Some(has) if !Arc::ptr_eq(has, entry) => table.conflicts.push(Conflict {
                        host,
                        has: has.key.id.clone(),
                        wants: entry.key.id.clone(),
                    }),
                    Some(_) => {}
                    None => {
                        table.hosts.insert(host.into(), entry.clone());
                    }
                }
            }
        }
        table
    }

    /// Whose a `Host` or `:authority` is.
    pub fn by_host(&self, authority: &str) -> Option<&Arc<Entry>> {
        self.hosts.get(host::lookup_form(authority, &mut [0; 262])?)
    }

    /// The resource of this name. Without a namespace: the one in `default`, else the only one of that name.
    pub fn by_name(&self, name: &str, default: Option<&str>) -> Option<&Arc<Entry>> {
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
