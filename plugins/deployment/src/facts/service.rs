//! Services.

use k8s_openapi::api::core::v1 as core;

use super::{Labels, Meta, PortOf};

/// What is kept of a Service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Service {
    /// Which.
    pub meta: Meta,
    /// The labels of the pods it leads to; empty: it leads to none by itself.
    pub selector: Labels,
    /// Another name for something outside.
    pub external: bool,
    /// Its ports, UDP and SCTP left out.
    pub ports: Vec<ServicePort>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name, empty where it has none.
    pub name: String,
    /// What is spoken on it, where it says so.
    pub protocol: String,
    /// The pods' port behind it.
    pub target: TargetPort,
}

/// The pods' port behind a Service's.
pub type TargetPort = PortOf;

// === impl Service ===

impl Service {
    /// The port that HTTP requests come by: the one called or said to be so, else the first.
    pub fn http_port(&self) -> Option<&ServicePort> {
        let is_http = |port: &&ServicePort| {
            port.name == "http"
                || matches!(port.protocol.as_str(), "http" | "kubernetes.io/h2c" | "kubernetes.io/ws")
        };
        self.ports.iter().find(is_http).or_else(|| self.ports.first())
    }

    /// Whether it leads to pods with these labels.
    pub fn leads_to(&self, labels: &Labels) -> bool {
        !self.external
            && !self.selector.is_empty()
            && self.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

impl From<core::Service> for Service {
    fn from(service: core::Service) -> Self {
        let spec = service.spec.unwrap_or_default();
        let tcp = |port: &core::ServicePort| port.protocol.as_deref().is_none_or(|name| name == "TCP");
        let ports = spec.ports.into_iter().flatten().filter(tcp).map(|port| {
            let own = u16::try_from(port.port).unwrap_or_default();
            ServicePort {
                name: port.name.unwrap_or_default(),
                protocol: port.app_protocol.unwrap_or_default(),
                target: port.target_port.map_or(PortOf::Number(own), PortOf::from),
            }
        });
        Self {
            meta: Meta::of(&service.metadata),
            selector: spec.selector.unwrap_or_default(),
            external: spec.type_.as_deref() == Some("ExternalName"),
            ports: ports.collect(),
        }
    }
}
