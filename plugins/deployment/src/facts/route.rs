//! What says that a host name belongs to a namespace: its Ingresses and HTTPRoutes.

use std::collections::BTreeSet;

use k8s_openapi::api::networking::v1::Ingress;
use kube::core::DynamicObject;

use super::Meta;

/// What is kept of an Ingress or HTTPRoute.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Which.
    pub meta: Meta,
    /// Its host names, lower case; `*.example.com` is every one with a label before it.
    pub hosts: BTreeSet<String>,
}

// === impl Route ===

impl Route {
    /// Whether the host is one of its own.
    pub fn has(&self, host: &str) -> bool {
        self.hosts.contains(host)
            || host.split_once('.').is_some_and(|(_, rest)| self.hosts.contains(&format!("*.{rest}")))
    }
}

impl From<Ingress> for Route {
    fn from(ingress: Ingress) -> Self {
        let rules = ingress.spec.unwrap_or_default().rules.into_iter().flatten();
        let hosts = rules.filter_map(|rule| rule.host).map(|host| host.to_ascii_lowercase()).collect();
        Self { meta: Meta::of(&ingress.metadata), hosts }
    }
}

impl From<DynamicObject> for Route {
    /// From an HTTPRoute.
    fn from(route: DynamicObject) -> Self {
        let hosts = route.data.pointer("/spec/hostnames").and_then(|list| list.as_array());
        let hosts = hosts.into_iter().flatten().filter_map(|host| host.as_str());
        Self { meta: Meta::of(&route.metadata), hosts: hosts.map(str::to_ascii_lowercase).collect() }
    }
}
