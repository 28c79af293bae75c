//! What cannot be led, and what to do about it. Told before anything is touched.

use scaler_types::Dlx;

use super::{plan, reach};
use crate::{
    config::InterceptMode,
    index::{MAX_LOSSES, State},
    interception::ports,
    objects::{NEWEST, PORT_REGISTRY, PortRef, PortRegistry, Service, Workload, annotations::IGNORE_CHECKS},
    workload::{
        exempt,
        options::{IgnoredCheck, WorkloadOptions},
    },
};

/// Why a workload's Services cannot be led.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum InterceptionRefusal {
    /// As things are: its owners or the cluster's have to change something.
    Shape(String),
    /// There is no port left.
    NoPort(String),
}

// === impl InterceptionRefusal ===

impl InterceptionRefusal {
    /// For people: which object, and what to do.
    pub(crate) fn text(self) -> String {
        match self {
            Self::Shape(text) | Self::NoPort(text) => text,
        }
    }
}

/// Why a workload that opted in cannot sleep the way its owners want its requests to go, if so. To these DLXs; none, if it is not known who they are.
pub(crate) fn check_interception(
    state: &State,
    workload: &Workload,
    options: &WorkloadOptions,
    dlxs: &[Dlx],
) -> Option<InterceptionRefusal> {
    if let Some(text) = exempt::exemption(state, workload) {
        return Some(InterceptionRefusal::Shape(text));
    }
    if options.intercept == InterceptMode::Manual {
        return reach::unreachable(state, workload, options).map(InterceptionRefusal::Shape);
    }
    let Some(range) = state.config.service_ports else {
        let text = "its Services cannot be led: start every autoscaler and dlx with --service-ports";
        return Some(InterceptionRefusal::Shape(text.to_owned()));
    };
    let services = state.ordinary_services_of(workload);
    if services.is_empty() {
        return Some(InterceptionRefusal::Shape(explain_no_service(state, workload)));
    }
    let shape = services.iter().find_map(|service| {
        check_spec(service, options)
            .or_else(|| check_ports(service, workload))
            .or_else(|| check_others(state, service))
            .or_else(|| check_families(service, dlxs))
            .map(|what| format!("the Service {} {what}", service.meta.name))
    });
    let shape =
        shape.or_else(|| check_readiness(&services)).or_else(|| check_policies(state, workload, options));
    if let Some(text) = shape {
        return Some(InterceptionRefusal::Shape(text));
    }
    let holders: Vec<_> = services.iter().flat_map(|service| plan::port_holders(service)).collect();
    let nothing = PortRegistry::default();
    let registry = state.interception.registry().unwrap_or(&nothing);
    if ports::has_room_for(
        registry,
        &holders,
        range,
        &state.interception.quarantine,
        state.interception.now(),
    ) {
        return None;
    }
    Some(InterceptionRefusal::NoPort(no_port_left(range)))
}

/// There are not enough ports.
pub(crate) fn no_port_left(range: scaler_types::ServicePorts) -> String {
    format!(
        "no port of the DLXs is left for its Services ({}-{}, ConfigMap {}; one that was given back is kept for 10 minutes): give \
         every autoscaler and dlx a wider --service-ports",
        range.first, range.last, PORT_REGISTRY
    )
}

/// No Service could be led.
fn explain_no_service(state: &State, workload: &Workload) -> String {
    if let Some(service) = state.services_of(workload).into_iter().find(|service| service.headless) {
        return format!(
            "the Service {} is headless, and there is no other: give it a Service with an address of its own",
            service.meta.name
        );
    }
    match state.service(&workload.meta.key()) {
        Some(service) if service.external => format!(
            "the Service {} is an ExternalName, which leads to no pods: give the workload a Service with a selector",
            service.meta.name
        ),
        Some(service) if service.selector.is_empty() => format!(
            "the Service {} has no selector, so that its endpoints are somebody else's: give it one",
            service.meta.name
        ),
        Some(service) if service.selects(&workload.labels) => {
            format!("the Service {} is being deleted", service.meta.name)
        }
        _ => "no Service leads to its pods: make one; or point an Ingress or HTTPRoute at the DLX, and say scaler.dev/intercept: \
              none"
            .to_owned(),
    }
}

/// What a Service is.
fn check_spec(service: &Service, options: &WorkloadOptions) -> Option<String> {
    if !service.not_tcp.is_empty() {
        let ports = service.not_tcp.join(", ");
        return Some(format!(
            "has the ports {ports}, and only TCP can be led: give them a Service of their own that \
                             selects other pods, or leave it as it is (scaler.dev/intercept: manual)"
        ));
    }
    if service.ports.is_empty() || service.ports.len() > plan::MAX_PORTS {
        let count = service.ports.len();
        return Some(format!("has {count} ports, and 1 to {} can be led", plan::MAX_PORTS));
    }
    if let Some(policy) = service.local.first() {
        return Some(format!(
            "has {policy}: Local, so that nodes without a DLX would have no endpoint: set it to Cluster"
        ));
    }
    if service.sticky && !options.ignored_checks.contains(&IgnoredCheck::SessionAffinity) {
        return Some(format!(
            "has sessionAffinity: ClientIP, which by way of the DLXs keeps nobody at a pod: set it to None, or accept that \
             ({IGNORE_CHECKS}: session-affinity)"
        ));
    }
    None
}

/// Several Services of which some take pods that are not ready: the DLXs send what comes by either to the same pods.
fn check_readiness(services: &[&Service]) -> Option<String> {
    let unready = services.iter().find(|service| service.unready)?;
    let ready = services.iter().find(|service| !service.unready)?;
    Some(format!(
        "the Service {} has publishNotReadyAddresses: true and {} has not, and what comes by either goes to the same pods: say the \
         same of both",
        unready.meta.name, ready.meta.name
    ))
}

/// By which addresses it is reached, and the DLXs are not.
fn check_families(service: &Service, dlxs: &[Dlx]) -> Option<String> {
    if service.families.is_empty() {
        return Some("has no ipFamilies that are known: set IPv4, IPv6 or both".to_owned());
    }
    let family = plan::unreachable_family(service, dlxs)?.name();
    Some(format!(
        "has an address of {family}, and no DLX takes requests by {family}: see to it that the DLXs' pods have addresses of that \
         family and listen on them (--listen-address=:8090 is all of them), or leave it out of the Service's ipFamilies"
    ))
}

/// Where its ports lead in the pods.
fn check_ports(service: &Service, workload: &Workload) -> Option<String> {
    let missing = service.ports.iter().find(|port| workload.port(&port.target).is_none())?;
    let PortRef::Name(name) = &missing.target else { return None };
    Some(match workload.ports {
        Some(_) => format!(
            "has the targetPort {name:?}, and no container of the pod template has a port called so: name it there, or use the number"
        ),
        None => format!(
            "has the targetPort {name:?}, and this kind of workload does not say what its pods call so: use the number"
        ),
    })
}

/// Who else has to do with it.
fn check_others(state: &State, service: &Service) -> Option<String> {
    let workloads = state.workloads_of(service);
    let scalers = workloads.iter().find(|id| state.workload(id).is_some_and(Workload::is_scaler));
    if let Some(id) = scalers {
        return Some(format!(
            "selects the pods of {}, one of Scaler's own daemons, too, and those are never led to: give the workload a Service of \
             its own",
            id.name
        ));
    }
    if workloads.len() > 1 {
        let names: Vec<_> = workloads.iter().map(|id| id.name.as_str()).collect();
        return Some(format!(
            "selects the pods of several workloads ({}), of which each sleeps by itself: give each a Service of its own",
            names.join(", ")
        ));
    }
    let mut slices = state.interception.slices_of(&service.meta.key());
    if slices.any(|slice| slice.ours.as_ref().is_some_and(|ours| ours.format > NEWEST)) {
        return Some(
            "has an EndpointSlice that a newer version of Scaler wrote: run that, or delete the slice"
                .to_owned(),
        );
    }
    if state.interception.selector_conflicts.is_suspended(&service.meta.uid, state.interception.now()) {
        return Some(format!(
            "was given the selector key {} {MAX_LOSSES} times, and somebody took it away each time: it is left alone for an hour; let \
             whoever applies it leave spec.selector as it is (plugins/deployment/README.md)",
            crate::objects::SELECTOR_KEY
        ));
    }
    None
}

/// What a DLX would open.
fn check_policies(state: &State, workload: &Workload, options: &WorkloadOptions) -> Option<String> {
    if options.intercept_despite_network_policies {
        return None;
    }
    let mut guards: Vec<_> = state
        .interception
        .guards(&workload.meta.namespace, &workload.labels)
        .map(|policy| &*policy.meta.name)
        .collect();
    guards.sort_unstable();
    let name = guards.first()?;
    Some(format!(
        "the NetworkPolicy {name} says who may connect to its pods, and whoever can connect to a DLX could by way of that: let only \
         the DLXs in, and have the operator set interceptDespiteNetworkPolicies: true in the namespace file"
    ))
}

#[cfg(test)]
mod tests;
