//! Services.

use k8s_openapi::api::core::v1 as core;
use scaler_types::Nonce;

use super::{IpFamily, Labels, Meta, Owners, PortRef};

/// The key that is added to a Service's selector, so that it selects no pod any more; the user's own keys stay.
pub(crate) const SELECTOR_KEY: &str = "scaler.dev/intercepted";
/// Its value until a commit writes the nonce of its record.
pub(crate) const SELECTOR_KEY_UNCOMMITTED: &str = "1";

/// The field manager of a patch by which an admission policy writes the key; the key's value follows.
pub(crate) const INTERCEPT_MANAGER: &str = "scaler-intercept.";
/// The field manager of a patch by which the policy removes it.
pub(crate) const RESTORE_MANAGER: &str = "scaler-restore";

pub(crate) const SELECTOR: &str = "/spec/selector";

/// The fields kept of a Service.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Service {
    pub(crate) meta: Meta,
    /// Its selector without Scaler's key; empty: it has none.
    pub(crate) selector: Labels,
    /// Whose its selector is.
    pub(crate) owners: Owners,
    /// Our key is in its selector: no pod is an endpoint of it.
    pub(crate) intercepted: bool,
    /// The value of our key where a commit wrote it: its record's nonce.
    pub(crate) committed: Option<Nonce>,
    pub(crate) deleting: bool,
    /// Another name for something outside.
    pub(crate) external: bool,
    /// Which, where it is.
    pub(crate) external_name: Option<String>,
    pub(crate) addresses: Vec<String>,
    /// It has no address of its own: its name stands for its pods' addresses.
    pub(crate) headless: bool,
    /// Pods are its endpoints before they are ready, and when they no longer are.
    pub(crate) unready: bool,
    /// A client's connections keep going to the same pod.
    pub(crate) sticky: bool,
    /// The traffic policies of it that are `Local`, by their fields' names.
    pub(crate) local: Vec<&'static str>,
    /// The families of its addresses.
    pub(crate) families: Vec<IpFamily>,
    /// Its ports, UDP and SCTP left out.
    pub(crate) ports: Vec<ServicePort>,
    /// Its UDP and SCTP ports, for people.
    pub(crate) not_tcp: Vec<String>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServicePort {
    /// Its name, empty where it has none.
    pub(crate) name: String,
    /// Its application protocol, if set.
    pub(crate) protocol: String,
    /// The pods' port behind it.
    pub(crate) target: PortRef,
}

// === impl Service ===

impl Service {
    /// The port that HTTP requests come by: the one called or said to be so, else the first.
    pub(crate) fn http_port(&self) -> Option<&ServicePort> {
        let is_http = |port: &&ServicePort| {
            port.name == "http"
                || matches!(port.protocol.as_str(), "http" | "kubernetes.io/h2c" | "kubernetes.io/ws")
        };
        self.ports.iter().find(is_http).or_else(|| self.ports.first())
    }

    /// Whether it selects pods with these labels, Scaler's key aside.
    pub(crate) fn selects(&self, labels: &Labels) -> bool {
        !self.external
            && !self.selector.is_empty()
            && self.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// Whether it can be intercepted: its name resolves to one address for all pods.
    pub(crate) fn is_ordinary(&self) -> bool {
        !self.external && !self.headless && !self.deleting
    }

    /// Whether nothing that matters for intercepting it differs, Scaler's key aside.
    pub(crate) fn has_same_spec(&self, other: &Self) -> bool {
        let of = |service: &Self| Self {
            meta: Meta::default(),
            owners: Owners::default(),
            intercepted: false,
            committed: None,
            ..service.clone()
        };
        self.meta.uid == other.meta.uid && of(self) == of(other)
    }
}

impl From<core::Service> for Service {
    fn from(service: core::Service) -> Self {
        let spec = service.spec.unwrap_or_default();
        let is_tcp = |port: &core::ServicePort| port.protocol.as_deref().is_none_or(|name| name == "TCP");
        let (tcp, others): (Vec<_>, Vec<_>) = spec.ports.into_iter().flatten().partition(is_tcp);
        let ports = tcp.into_iter().map(|port| {
            let own = u16::try_from(port.port).unwrap_or_default();
            ServicePort {
                name: port.name.unwrap_or_default(),
                protocol: port.app_protocol.unwrap_or_default(),
                target: port.target_port.map_or(PortRef::Number(own), PortRef::from),
            }
        });
        let not_tcp =
            others.into_iter().map(|port| format!("{}/{}", port.port, port.protocol.unwrap_or_default()));
        let mut selector = spec.selector.unwrap_or_default();
        let key = selector.remove(SELECTOR_KEY);
        let local = [
            ("internalTrafficPolicy", spec.internal_traffic_policy),
            ("externalTrafficPolicy", spec.external_traffic_policy),
        ];
        let local = local.into_iter().filter(|(_, policy)| policy.as_deref() == Some("Local"));
        let families = spec.ip_families.into_iter().flatten().filter_map(|name| IpFamily::parse(&name));
        Self {
            meta: Meta::from(&service.metadata),
            owners: Owners::of_field(&service.metadata, SELECTOR),
            selector,
            intercepted: key.is_some(),
            committed: key
                .filter(|value| value != SELECTOR_KEY_UNCOMMITTED)
                .and_then(|value| value.try_into().ok()),
            deleting: service.metadata.deletion_timestamp.is_some(),
            external: spec.type_.as_deref() == Some("ExternalName"),
            external_name: spec.external_name.filter(|_| spec.type_.as_deref() == Some("ExternalName")),
            headless: spec.cluster_ip.as_deref() == Some("None"),
            addresses: spec.cluster_ips.or_else(|| Some(vec![spec.cluster_ip?])).unwrap_or_default(),
            unready: spec.publish_not_ready_addresses == Some(true),
            sticky: spec.session_affinity.as_deref() == Some("ClientIP"),
            local: local.map(|(name, _)| name).collect(),
            families: families.collect(),
            ports: ports.collect(),
            not_tcp: not_tcp.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(spec: Value) -> Service {
        let object = json!({"metadata": {"name": "web", "uid": "u"}, "spec": spec});
        serde_json::from_value::<core::Service>(object).unwrap().into()
    }

    #[test]
    fn with_our_key_it_is_still_its_workloads() {
        let spec = |selector: Value| json!({"selector": selector, "ports": [{"port": 80}]});
        let free = service(spec(json!({"app": "web"})));
        let intercepted = service(spec(json!({"app": "web", SELECTOR_KEY: "1"})));
        assert_eq!((free.intercepted, intercepted.intercepted), (false, true));
        assert_eq!(free.selector, intercepted.selector);
        assert!(
            free.has_same_spec(&intercepted)
                && !free.has_same_spec(&service(spec(json!({"app": "web", "tier": "a"}))))
        );
        let labels = Labels::from([("app".to_owned(), "web".to_owned())]);
        assert!(intercepted.selects(&labels));
        assert!(!service(spec(json!({SELECTOR_KEY: "1"}))).selects(&labels), "our key alone selects nothing");
    }

    #[test]
    fn its_shape_is_read() {
        let web = service(json!({
            "clusterIP": "None", "sessionAffinity": "ClientIP", "ipFamilies": ["IPv6", "IPv4", "IPv9"],
            "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Cluster",
            "ports": [
                {"name": "http", "port": 80, "targetPort": "web", "appProtocol": "http"},
                {"name": "dns", "port": 53, "protocol": "UDP"},
            ],
        }));
        assert!(web.headless && web.sticky && !web.is_ordinary());
        assert_eq!(web.local, ["internalTrafficPolicy"]);
        assert_eq!(web.families, [IpFamily::V6, IpFamily::V4]);
        assert_eq!((web.ports.len(), web.not_tcp.as_slice()), (1, ["53/UDP".to_owned()].as_slice()));
        assert_eq!(web.ports[0].target, PortRef::Name("web".to_owned()));
    }
}
