//! What one node knows, and the rules that follow from it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use k8s_openapi::api::{
    core::v1::{Service, ServicePort},
    discovery::v1::EndpointSlice,
};

use crate::cache::{Change, Key};

/// Which Service a slice belongs to.
pub const SERVICE: &str = "kubernetes.io/service-name";
/// What has one of these labels is not for kube-proxy.
const NOT_OURS: [&str; 2] = ["service.kubernetes.io/headless", "service.kubernetes.io/service-proxy-name"];

/// By which node ports are reached on node 0.
const NODE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Services and their slices.
#[derive(Debug, Default)]
pub struct View {
    services: HashMap<Key, Arc<Service>>,
    slices: HashMap<Key, BTreeMap<Key, Arc<EndpointSlice>>>,
}

/// A Service's addresses, at most one of each family.
pub fn cluster_ips(service: &Service) -> impl Iterator<Item = IpAddr> {
    let all = service.spec.iter().flat_map(|spec| spec.cluster_ips.iter().flatten());
    all.filter_map(|address| address.parse().ok())
}

// === impl View ===

impl View {
    /// Takes in a change of a Service; which one that is.
    pub fn service(&mut self, change: Change<Service>) -> Vec<Key> {
        let key = Key::of(change.any());
        match change.new.filter(|service| ours(&service.metadata)) {
            Some(service) => drop(self.services.insert(key.clone(), service)),
            None => drop(self.services.remove(&key)),
        }
        vec![key]
    }

    /// Takes in a change of a slice; the Services that it was and is of.
    pub fn slice(&mut self, change: Change<EndpointSlice>) -> Vec<Key> {
        let mut services = Vec::new();
        if let Some(service) = change.old.as_deref().and_then(service_of) {
            let slice = Key::of(change.any());
            self.slices.entry(service.clone()).or_default().remove(&slice);
            services.push(service);
        }
        if let Some(slice) = change.new.filter(|slice| ours(&slice.metadata))
            && let Some(service) = service_of(&slice)
        {
            self.slices.entry(service.clone()).or_default().insert(Key::of(&*slice), slice);
            services.push(service);
        }
        services
    }

    /// Where new connections to a Service's ports go: to any of these endpoints, or nowhere.
    pub fn rules(&self, service: &Key) -> Vec<((IpAddr, u16), Vec<SocketAddr>)> {
        let Some(known) = self.services.get(service) else { return Vec::new() };
        let mut rules = Vec::new();
        for address in cluster_ips(known) {
            let ports = known.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
            for port in ports.filter(|port| is_tcp(port.protocol.as_deref())) {
                let Ok(number) = port.port.try_into() else { continue };
                let endpoints = self.endpoints(service, port, family(address));
                if let Some(number) = node_port(port).filter(|_| address.is_ipv4()) {
                    rules.push(((NODE, number), endpoints.clone()));
                }
                rules.push(((address, number), endpoints));
            }
        }
        rules
    }

    /// Whether a client's new connections go where its others went.
    pub fn affinity(&self, service: &Key) -> bool {
        let spec = self.services.get(service).and_then(|known| known.spec.as_ref());
        spec.is_some_and(|spec| spec.session_affinity.as_deref() == Some("ClientIP"))
    }

    /// The ready ones of that family; if there is none, those that end and still serve.
    fn endpoints(&self, service: &Key, port: &ServicePort, family: &str) -> Vec<SocketAddr> {
        let name = port.name.as_deref().unwrap_or_default();
        let (mut ready, mut ending) = (BTreeSet::new(), BTreeSet::new());
        let slices = self.slices.get(service).into_iter().flat_map(BTreeMap::values);
        for slice in slices.filter(|slice| slice.address_type == family) {
            let ports = slice.ports.iter().flatten();
            let named = ports.filter(|of| {
                of.name.as_deref().unwrap_or_default() == name && is_tcp(of.protocol.as_deref())
            });
            let numbers: Vec<u16> = named.filter_map(|port| port.port?.try_into().ok()).collect();
            for endpoint in &slice.endpoints {
                let conditions = endpoint.conditions.clone().unwrap_or_default();
                let is_ready = conditions.ready.unwrap_or(true);
                let serves = conditions.serving.unwrap_or(is_ready);
                let set = match (is_ready, serves && conditions.terminating.unwrap_or(false)) {
                    (true, _) => &mut ready,
                    (false, true) => &mut ending,
                    (false, false) => continue,
                };
                // As kube-proxy: the further addresses of an endpoint are not looked at.
                let Some(address) = endpoint.addresses.first().and_then(|text| text.parse().ok()) else {
                    continue;
                };
                set.extend(numbers.iter().map(|number| SocketAddr::new(address, *number)));
            }
        }
        let chosen = if ready.is_empty() { ending } else { ready };
        chosen.into_iter().collect()
    }
}

fn node_port(port: &ServicePort) -> Option<u16> {
    port.node_port?.try_into().ok().filter(|number| *number > 0)
}

/// The API's word for an address's family.
fn family(address: IpAddr) -> &'static str {
    if address.is_ipv6() { "IPv6" } else { "IPv4" }
}

fn ours(meta: &kube::api::ObjectMeta) -> bool {
    let labels = meta.labels.as_ref();
    labels.is_none_or(|labels| NOT_OURS.iter().all(|label| !labels.contains_key(*label)))
}

fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE)?;
    Some(Key::beside(slice, name))
}

fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}
