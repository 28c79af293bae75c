//! The fields kept of the cluster's objects: only those that this plugin depends on.

pub(crate) mod annotations;
pub(crate) mod host_name;
mod owners;
mod pod;
mod policy;
mod port_registry;
pub(crate) mod record;
mod rollout;
mod route;
mod scaler;
mod selector;
mod service;
mod slice;
mod workload;

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use k8s_openapi::{api::core::v1::Namespace, apimachinery::pkg::apis::meta::v1::ObjectMeta};

pub(crate) use owners::Owners;
#[cfg(test)]
pub(crate) use pod::WaitingReason;
pub(crate) use pod::{Container, ContainerProbe, PodObject, PortRef};
pub(crate) use policy::Policy;
pub(crate) use port_registry::{
    INTERCEPTED, NAME as PORT_REGISTRY, PortEntry, PortHolder, PortRegistry, holding,
};
pub(crate) use route::{HostRoute, RouteRule};
pub(crate) use scaler::OtherAutoscaler;
pub(crate) use selector::{Labels, Selector};
pub(crate) use service::{
    INTERCEPT_MANAGER, RESTORE_MANAGER, SELECTOR, SELECTOR_KEY, SELECTOR_KEY_UNCOMMITTED, Service,
    ServicePort,
};
pub(crate) use slice::{
    DLXS, DlxSlice, FORMAT, IpFamily, MANAGED_BY, NEWEST, OWNERS, SERVICE, Slice, SliceEndpoint,
};
pub(crate) use workload::{COMPONENT, Kind, Workload, is_scaler};

/// The key of an object in its table.
pub(crate) type ObjectName = (Arc<str>, Arc<str>);

/// The metadata of every object kept: its identity and its version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Empty for what is in no namespace.
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
    /// Its identity: another object of the same name has another one.
    pub(crate) uid: String,
    /// Its `resourceVersion` as a number; 0 where it is none. Within one type they grow with every change: what
    /// Kubernetes promises since 1.35 (KEP-5504) has been so in every earlier release, where they are etcd's revisions.
    pub(crate) revision: u64,
}

/// A namespace.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NamespaceAnnotations {
    pub(crate) meta: Meta,
    pub(crate) annotations: BTreeMap<String, String>,
}

/// Something kept of one object.
pub(crate) trait TrimmedObject {
    /// Which object, and which state of it.
    fn meta(&self) -> &Meta;
}

// === impl Meta ===

impl From<&ObjectMeta> for Meta {
    fn from(meta: &ObjectMeta) -> Self {
        Self {
            namespace: meta.namespace.as_deref().unwrap_or_default().into(),
            name: meta.name.as_deref().unwrap_or_default().into(),
            uid: meta.uid.clone().unwrap_or_default(),
            revision: meta.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0),
        }
    }
}

impl Meta {
    /// Its key in a table.
    pub(crate) fn key(&self) -> ObjectName {
        (self.namespace.clone(), self.name.clone())
    }
}

/// The annotations that are for Scaler.
fn scaler_annotations(meta: &ObjectMeta) -> BTreeMap<String, String> {
    let all = meta.annotations.iter().map(Cow::Borrowed);
    all.flat_map(Cow::into_owned).filter(|(key, _)| key.starts_with("scaler.dev/")).collect()
}

// === impl NamespaceAnnotations ===

impl From<Namespace> for NamespaceAnnotations {
    fn from(namespace: Namespace) -> Self {
        Self { meta: Meta::from(&namespace.metadata), annotations: scaler_annotations(&namespace.metadata) }
    }
}

macro_rules! objects {
    ($($fact:ty),*) => {
        $(impl TrimmedObject for $fact {
            fn meta(&self) -> &Meta {
                &self.meta
            }
        })*
    };
}
objects!(
    Workload,
    PodObject,
    Service,
    HostRoute,
    OtherAutoscaler,
    NamespaceAnnotations,
    Slice,
    Policy,
    PortRegistry
);
