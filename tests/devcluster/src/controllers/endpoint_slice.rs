//! Services and the pods they select -> EndpointSlices.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use k8s_openapi::{
    api::{
        core::v1::{ObjectReference, Pod, Service},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::api::{DeleteParams, ObjectMeta, PostParams};

use super::{
    Error, World, label_word, label_words,
    pods::{controlled_by, is_over, is_ready},
    word_of,
};
use crate::cache::Key;

/// Which Service a slice belongs to.
const SERVICE: &str = "kubernetes.io/service-name";
/// Whose slices these are.
const MANAGED_BY: (&str, &str) =
    ("endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io");
/// A node's label that says its zone.
const ZONE: &str = "topology.kubernetes.io/zone";
/// The most endpoints in one slice.
const LARGEST: usize = 100;

/// Slices as they should be: of which family, the ports, and what is reached by them.
type Wanted = Vec<(String, Group)>;
type Group = (Vec<EndpointPort>, Vec<Endpoint>);

/// The Service of a slice that this controller keeps.
pub fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let labels = slice.metadata.labels.as_ref()?;
    let managed = labels.get(MANAGED_BY.0).is_some_and(|who| who == MANAGED_BY.1);
    labels.get(SERVICE).filter(|_| managed).map(|name| Key::beside(slice, name))
}

/// One label of a Service's selector, by which it is found from a pod that has it.
pub fn selector_word(service: &Service) -> Option<String> {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let (key, value) = selector(service)?.first_key_value()?;
    Some(label_word(namespace, key, value))
}

/// The Services that select a pod.
pub fn services_of(world: &World, pod: &Pod) -> Vec<Arc<Service>> {
    let found = label_words(&pod.metadata).flat_map(|word| world.services.find(&word));
    found.filter(|service| selects(service, pod)).collect()
}

pub async fn reconcile(world: Arc<World>, key: Key) -> Result<Option<Duration>, Error> {
    let api = world.api::<EndpointSlice>(&key.namespace);
    let mut known = world.slices.find(&word_of(&key));
    let service = world.services.get(&key).filter(|service| service.metadata.deletion_timestamp.is_none());
    // Those of a Service that is gone are the garbage collector's.
    let Some(service) = service else { return Ok(None) };
    if selector(&service).is_none() {
        return Ok(None);
    }
    for (family, (ports, endpoints)) in wanted(&world, &service) {
        // A slice of the family that has these ports is changed, whatever was in it.
        let fits = |slice: &Arc<EndpointSlice>| {
            slice.address_type == family && slice.ports.clone().unwrap_or_default() == ports
        };
        let at = known.iter().position(fits);
        let slice = at.map(|at| known.swap_remove(at));
        let changed = match slice {
            Some(slice) if slice.endpoints == endpoints => continue,
            Some(slice) => {
                let slice = EndpointSlice { endpoints, ..(*slice).clone() };
                let name = slice.metadata.name.clone().unwrap_or_default();
                api.replace(&name, &PostParams::default(), &slice).await?
            }
            None => {
                api.create(&PostParams::default(), &new_slice(&service, family, ports, endpoints)).await?
            }
        };
        world.slices.wrote(changed);
    }
    for slice in known {
        let name = slice.metadata.name.clone().unwrap_or_default();
        match api.delete(&name, &DeleteParams::default()).await {
            Err(kube::Error::Api(refused)) if refused.code == 404 => {}
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        world.slices.removed(&slice);
    }
    Ok(None)
}

/// The selector, of Services whose endpoints are pods.
fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service.spec.as_ref().filter(|spec| spec.type_.as_deref() != Some("ExternalName"))?;
    spec.selector.as_ref().filter(|selector| !selector.is_empty())
}

fn selects(service: &Service, pod: &Pod) -> bool {
    let labels = pod.metadata.labels.as_ref();
    selector(service).is_some_and(|selector| {
        let has = |(key, value): (&String, &String)| labels.and_then(|labels| labels.get(key)) == Some(value);
        service.metadata.namespace == pod.metadata.namespace && selector.iter().all(has)
    })
}

fn wanted(world: &World, service: &Service) -> Wanted {
    let mut wanted = Wanted::new();
    for family in service.spec.iter().flat_map(|spec| spec.ip_families.iter().flatten()) {
        let groups = groups(world, service, family).into_iter();
        wanted.extend(groups.map(|group| (family.clone(), group)));
    }
    wanted
}

/// Pods that have an address of the family, by the Service's target ports in them: a name can be another number in each.
fn groups(world: &World, service: &Service, family: &str) -> Vec<Group> {
    let mut groups: BTreeMap<Vec<(String, i32)>, Group> = BTreeMap::new();
    let pods = selector_word(service).map(|word| world.pods.find(&word)).unwrap_or_default();
    for pod in pods.iter().filter(|pod| selects(service, pod) && !is_over(pod)) {
        let addresses = pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
        let Some(address) = addresses.map(|address| &*address.ip).find(|ip| is_of(ip, family)) else {
            continue;
        };
        let ports = ports_in(service, pod);
        let by =
            ports.iter().map(|port| (port.name.clone().unwrap_or_default(), port.port.unwrap_or_default()));
        let group = groups.entry(by.collect()).or_insert_with(|| (ports, Vec::new()));
        group.1.push(Endpoint { zone: zone(world, pod), ..endpoint(service, pod, address) });
    }
    let mut wanted = Vec::new();
    for (ports, mut endpoints) in groups.into_values() {
        endpoints.sort_by(|one, other| one.addresses.cmp(&other.addresses));
        for part in endpoints.chunks(LARGEST) {
            wanted.push((ports.clone(), part.to_vec()));
        }
    }
    if wanted.is_empty() {
        // An empty slice says that there is no endpoint.
        wanted.push((Vec::new(), Vec::new()));
    }
    wanted
}

fn is_of(address: &str, family: &str) -> bool {
    address.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6() == (family == "IPv6"))
}

fn ports_in(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let spec = service.spec.as_ref();
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let named: Vec<_> = containers.flat_map(|container| container.ports.iter().flatten()).collect();
    let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    ports
        .iter()
        .filter_map(|port| {
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
            let number = match &port.target_port {
                None | Some(IntOrString::Int(0)) => port.port,
                Some(IntOrString::Int(number)) => *number,
                Some(IntOrString::String(name)) => {
                    named
                        .iter()
                        .find(|known| {
                            known.name.as_ref() == Some(name)
                                && known.protocol.as_deref().unwrap_or("TCP") == protocol
                        })?
                        .container_port
                }
            };
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(number),
                protocol: Some(protocol),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

/// The zone of a pod's node, as that says it.
fn zone(world: &World, pod: &Pod) -> Option<String> {
    let name = pod.spec.as_ref()?.node_name.clone()?;
    let node = world.nodes.get(&Key { namespace: String::new(), name })?;
    node.metadata.labels.as_ref()?.get(ZONE).cloned()
}

fn endpoint(service: &Service, pod: &Pod, address: &str) -> Endpoint {
    let spec = service.spec.as_ref();
    let anyway = spec.and_then(|spec| spec.publish_not_ready_addresses) == Some(true);
    let (ready, terminating) = (is_ready(pod), pod.metadata.deletion_timestamp.is_some());
    let spec = pod.spec.as_ref();
    Endpoint {
        addresses: vec![address.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(anyway || ready && !terminating),
            serving: Some(ready),
            terminating: Some(terminating),
        }),
        hostname: spec
            .and_then(|spec| spec.hostname.clone())
            .filter(|_| spec.and_then(|spec| spec.subdomain.as_ref()) == service.metadata.name.as_ref()),
        node_name: spec.and_then(|spec| spec.node_name.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn new_slice(
    service: &Service,
    family: String,
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    let name = service.metadata.name.clone().unwrap_or_default();
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE.into(), name.clone());
    labels.insert(MANAGED_BY.0.into(), MANAGED_BY.1.into());
    if service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None") {
        labels.insert("service.kubernetes.io/headless".into(), String::new());
    }
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![controlled_by(service)]),
            ..Default::default()
        },
        address_type: family,
        endpoints,
        ports: Some(ports),
    }
}
