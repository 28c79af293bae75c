//! What is kept of the cluster's objects: what something here depends on, and no more.

pub mod annotations;
pub mod host_name;
mod owners;
mod pod;
mod policy;
mod port_registry;
pub mod record;
mod rollout;
mod route;
mod scaler;
mod selector;
mod service;
mod slice;
mod workload;

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use k8s_openapi::{api::core::v1::Namespace, apimachinery::pkg::apis::meta::v1::ObjectMeta};

pub use owners::Owners;
#[cfg(test)]
pub use pod::Waiting;
pub use pod::{Container, Pod, PortOf, ProbeOf};
pub use policy::Policy;
pub use port_registry::{Entry, Holder, INTERCEPTED, NAME as PORT_REGISTRY, Registry, holding};
pub use route::{Lead, Route};
pub use scaler::Scaler;
pub use selector::{Labels, Selector};
pub use service::{FENCED, LED, SELECTOR, Service, ServicePort};
pub use slice::{DLXS, FORMAT, Family, MANAGED_BY, NEWEST, OWNERS, Ours, Place, SERVICE, Slice};
pub use workload::{COMPONENT, Kind, Workload, is_scaler};

/// What identifies an object among those of its table.
pub type Name = (Arc<str>, Arc<str>);

/// What every fact has: which object it is of, and of which state of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Empty for what is in no namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its identity: another object of the same name has another one.
    pub uid: String,
    /// Its `resourceVersion` as a number; 0 where it is none. Within one type they grow with every change: what
    /// Kubernetes promises since 1.35 (KEP-5504) has been so in every earlier release, where they are etcd's revisions.
    pub revision: u64,
}

/// A namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct NamespaceFact {
    /// Which.
    pub meta: Meta,
    /// Its `scaler.dev/` annotations.
    pub annotations: BTreeMap<String, String>,
}

/// Something kept of one object.
pub trait Fact {
    /// Which object, and which state of it.
    fn meta(&self) -> &Meta;
}

// === impl Meta ===

impl Meta {
    /// From an object's own.
    pub fn of(meta: &ObjectMeta) -> Self {
        Self {
            namespace: meta.namespace.as_deref().unwrap_or_default().into(),
            name: meta.name.as_deref().unwrap_or_default().into(),
            uid: meta.uid.clone().unwrap_or_default(),
            revision: meta.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0),
        }
    }

    /// Its key in a table.
    pub fn key(&self) -> Name {
        (self.namespace.clone(), self.name.clone())
    }
}

/// The annotations that are for Scaler.
fn ours(meta: &ObjectMeta) -> BTreeMap<String, String> {
    let all = meta.annotations.iter().map(Cow::Borrowed);
    all.flat_map(Cow::into_owned).filter(|(key, _)| key.starts_with("scaler.dev/")).collect()
}

// === impl NamespaceFact ===

impl From<Namespace> for NamespaceFact {
    fn from(namespace: Namespace) -> Self {
        Self { meta: Meta::of(&namespace.metadata), annotations: ours(&namespace.metadata) }
    }
}

macro_rules! objects {
    ($($fact:ty),*) => {
        $(impl Fact for $fact {
            fn meta(&self) -> &Meta {
                &self.meta
            }
        })*
    };
}
objects!(Workload, Pod, Service, Route, Scaler, NamespaceFact, Slice, Policy, Registry);
