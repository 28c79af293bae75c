//! EndpointSlices: ours, and those of the Services' own endpoints.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use k8s_openapi::{
    api::discovery::v1::{Endpoint, EndpointSlice},
    apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry,
};

use super::{Meta, ObjectName};

/// The label that says which Service a slice belongs to.
pub(crate) const SERVICE: &str = "kubernetes.io/service-name";
/// The label with the manager of a slice, and its value on Scaler's.
pub(crate) const MANAGED_BY: (&str, &str) = ("endpointslice.kubernetes.io/managed-by", "scaler.dev");
/// The annotation with a slice's format.
pub(crate) const FORMAT: &str = "scaler.dev/format";
/// The annotation with the names of the DLXs that are its endpoints, commas between them.
pub(crate) const DLXS: &str = "scaler.dev/dlxs";
/// The annotation with the owners of the Service's selector (`metadata.managedFields`) when Scaler wrote it: should that daemon end
/// before it has restored it, another one does.
pub(crate) const OWNERS: &str = "scaler.dev/selector-managed-fields";
/// The newest format that is read, and the one that is written.
pub(crate) const NEWEST: u32 = 1;

/// The fields kept of an EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Slice {
    pub(crate) meta: Meta,
    /// The Service it belongs to, in its namespace; empty: none.
    pub(crate) service: Arc<str>,
    /// It has endpoints, ready or not.
    pub(crate) filled: bool,
    /// One of its endpoints is ready.
    pub(crate) ready: bool,
    /// Its content, if it is one of ours.
    pub(crate) ours: Option<DlxSlice>,
}

/// A slice of Scaler's: the DLXs as endpoints of a Service.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct DlxSlice {
    pub(crate) format: u32,
    /// The uid of the Service it was written for.
    pub(crate) uid: String,
    /// The family of its addresses; none: one that is not known.
    pub(crate) family: Option<IpFamily>,
    pub(crate) dlxs: Vec<String>,
    /// The DLXs' port for each of the Service's ports, by the name of that.
    pub(crate) ports: BTreeMap<String, u16>,
    pub(crate) endpoints: Vec<SliceEndpoint>,
    /// The owners of the Service's selector.
    pub(crate) owners: Vec<ManagedFieldsEntry>,
}

/// One address that takes requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SliceEndpoint {
    pub(crate) address: String,
    /// The node it is on.
    pub(crate) node: Option<String>,
    /// The zone that is in.
    pub(crate) zone: Option<String>,
    /// It is said to be ready.
    pub(crate) ready: bool,
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum IpFamily {
    V4,
    V6,
}

// === impl Slice ===

impl Slice {
    /// The Service it belongs to.
    pub(crate) fn service_name(&self) -> ObjectName {
        (self.meta.namespace.clone(), self.service.clone())
    }
}

impl From<EndpointSlice> for Slice {
    fn from(slice: EndpointSlice) -> Self {
        let label = |name: &str| slice.metadata.labels.as_ref().and_then(|labels| labels.get(name));
        let is_ready = |one: &Endpoint| {
            // Nothing said is ready, by the API's own word.
            one.conditions.as_ref().and_then(|all| all.ready).unwrap_or(true)
        };
        let is_ours = label(MANAGED_BY.0).is_some_and(|who| who == MANAGED_BY.1);
        Self {
            meta: Meta::from(&slice.metadata),
            service: label(SERVICE).map(String::as_str).unwrap_or_default().into(),
            filled: !slice.endpoints.is_empty(),
            ready: slice.endpoints.iter().any(is_ready),
            ours: is_ours.then(|| DlxSlice::read(&slice)),
        }
    }
}

// === impl DlxSlice ===

impl DlxSlice {
    fn read(slice: &EndpointSlice) -> Self {
        let annotation = |name: &str| slice.metadata.annotations.as_ref().and_then(|all| all.get(name));
        let owner = slice.metadata.owner_references.iter().flatten().find(|owner| owner.kind == "Service");
        let ports = slice.ports.iter().flatten().filter_map(|port| {
            Some((port.name.clone().unwrap_or_default(), u16::try_from(port.port?).ok()?))
        });
        let dlxs = annotation(DLXS).map(|text| text.split(',')).into_iter().flatten();
        let endpoints = slice.endpoints.iter().map(|one| SliceEndpoint {
            address: one.addresses.first().cloned().unwrap_or_default(),
            node: one.node_name.clone(),
            zone: one.zone.clone(),
            ready: one.conditions.as_ref().and_then(|all| all.ready).unwrap_or(true),
        });
        let mut endpoints: Vec<_> = endpoints.collect();
        endpoints.sort();
        Self {
            // One that no version wrote is taken for a newer one's, and is not touched.
            format: annotation(FORMAT).and_then(|text| text.parse().ok()).unwrap_or(u32::MAX),
            uid: owner.map(|owner| owner.uid.clone()).unwrap_or_default(),
            family: IpFamily::parse(&slice.address_type),
            dlxs: dlxs.filter(|name| !name.is_empty()).map(str::to_owned).collect(),
            ports: ports.collect(),
            endpoints,
            owners: annotation(OWNERS).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default(),
        }
    }
}

// === impl IpFamily ===

impl IpFamily {
    pub(crate) const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// By the API's word for it.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.name() == text)
    }

    /// The API's word for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// Whether the address is one of it.
    pub(crate) fn has(self, address: &IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn slice(labels: Value, annotations: Value, endpoints: Value) -> Slice {
        let object = json!({
            "metadata": {
                "name": "web-x", "namespace": "shop", "labels": labels, "annotations": annotations,
                "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "web", "uid": "s1"}],
            },
            "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "http", "port": 20001}, {"name": "", "port": 20002}],
        });
        serde_json::from_value::<EndpointSlice>(object).unwrap().into()
    }

    #[test]
    fn our_slices_are_distinguished_from_others() {
        let endpoints = json!([{"addresses": ["10.0.0.2"], "nodeName": "n"}, {"addresses": ["10.0.0.1"]}]);
        let labels = json!({SERVICE: "web", MANAGED_BY.0: MANAGED_BY.1});
        let ours = slice(labels, json!({FORMAT: "1", DLXS: "a,b"}), endpoints.clone());
        let said = ours.ours.clone().unwrap();
        assert_eq!((said.format, said.uid.as_str(), said.family), (1, "s1", Some(IpFamily::V4)));
        assert_eq!(said.dlxs, ["a", "b"]);
        assert_eq!(said.ports, BTreeMap::from([("http".to_owned(), 20001), (String::new(), 20002)]));
        assert_eq!(said.endpoints[1].node.as_deref(), Some("n"));
        assert_eq!(ours.service_name(), ("shop".into(), "web".into()));
        let labels = json!({SERVICE: "web", MANAGED_BY.0: "endpointslice-controller.k8s.io"});
        assert_eq!(slice(labels, Value::Null, endpoints).ours, None);
        let labels = json!({MANAGED_BY.0: MANAGED_BY.1});
        let torn = slice(labels, json!({FORMAT: "two"}), json!([]));
        assert_eq!(torn.ours.unwrap().format, u32::MAX);
    }

    #[test]
    fn what_is_not_said_to_be_unready_is_ready() {
        let labels = || json!({SERVICE: "web"});
        for (conditions, ready) in [
            (json!({}), true),
            (json!({"ready": false, "serving": true}), false),
            (json!({"ready": true}), true),
        ] {
            let endpoints = json!([{"addresses": ["10.0.0.1"], "conditions": conditions}]);
            let slice = slice(labels(), Value::Null, endpoints);
            assert_eq!((slice.filled, slice.ready), (true, ready), "{conditions}");
        }
        let empty = slice(labels(), Value::Null, json!([]));
        assert!(!empty.filled && !empty.ready);
    }
}
