//! What cannot be intercepted, and what to do about it. Reported before anything is changed.

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

/// Why a workload's Services cannot be intercepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum InterceptionRefusal {
    /// Something has to be changed, on the workload, its Services or in the cluster.
    Shape(String),
    /// There is no port left.
    NoPort(String),
}

// === impl InterceptionRefusal ===

impl InterceptionRefusal {
    /// Human-readable: which object, and what to do.
    pub(crate) fn text(self) -> String {
        match self {
            Self::Shape(text) | Self::NoPort(text) => text,
        }
    }
}

/// Why a workload that opted in cannot be intercepted as set, or woken by a request without that. `dlxs`: empty if not known.
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
        let text = "its Services cannot be intercepted: start every autoscaler and dlx with --service-ports";
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
        "no DLX port is left for its Services ({}-{}, ConfigMap {}; a freed port is reserved for 10 \
         minutes): give every autoscaler and dlx a wider --service-ports",
        range.first, range.last, PORT_REGISTRY
    )
}

/// Why no Service can be intercepted.
fn explain_no_service(state: &State, workload: &Workload) -> String {
    if let Some(service) = state.services_of(workload).into_iter().find(|service| service.headless) {
        return format!(
            "the Service {} is headless, and there is no other: add a Service with a cluster IP",
            service.meta.name
        );
    }
    match state.service(&workload.meta.key()) {
        Some(service) if service.external => format!(
            "the Service {} is an ExternalName, which selects no pods: add a Service with a selector",
            service.meta.name
        ),
        Some(service) if service.selector.is_empty() => format!(
            "the Service {} has no selector, so Kubernetes does not manage its endpoints: add a selector",
            service.meta.name
        ),
        Some(service) if service.selects(&workload.labels) => {
            format!("the Service {} is being deleted", service.meta.name)
        }
        _ => "no Service selects its pods: create one; or point an Ingress or HTTPRoute at the DLX, and \
             set scaler.dev/intercept: manual"
            .to_owned(),
    }
}

/// What a Service is.
fn check_spec(service: &Service, options: &WorkloadOptions) -> Option<String> {
    if !service.not_tcp.is_empty() {
        let ports = service.not_tcp.join(", ");
        return Some(format!(
            "has the ports {ports}, and only TCP can be intercepted: move them to another Service that \
             selects other pods, or do not intercept (scaler.dev/intercept: manual)"
        ));
    }
    if service.ports.is_empty() || service.ports.len() > plan::MAX_PORTS {
        let count = service.ports.len();
        return Some(format!("has {count} ports, and 1 to {} can be intercepted", plan::MAX_PORTS));
    }
    if let Some(policy) = service.local.first() {
        return Some(format!(
            "has {policy}: Local, so nodes without a DLX would have no endpoint: set it to Cluster"
        ));
    }
    if service.sticky && !options.ignored_checks.contains(&IgnoredCheck::SessionAffinity) {
        return Some(format!(
            "has sessionAffinity: ClientIP, which has no effect behind the DLXs: set it to None, or \
             accept that ({IGNORE_CHECKS}: session-affinity)"
        ));
    }
    None
}

/// Several Services of which some take pods that are not ready: the DLXs send what comes by either to the same pods.
fn check_readiness(services: &[&Service]) -> Option<String> {
    let unready = services.iter().find(|service| service.unready)?;
    let ready = services.iter().find(|service| !service.unready)?;
    Some(format!(
        "the Service {} has publishNotReadyAddresses: true and {} does not, and requests by either go \
         to the same pods: set it alike in both",
        unready.meta.name, ready.meta.name
    ))
}

/// By which addresses it is reached, and the DLXs are not.
fn check_families(service: &Service, dlxs: &[Dlx]) -> Option<String> {
    if service.families.is_empty() {
        return Some("has no known ipFamilies: set IPv4, IPv6 or both".to_owned());
    }
    let family = plan::unreachable_family(service, dlxs)?.name();
    Some(format!(
        "has an address of {family}, and no DLX takes requests by {family}: give the DLXs' pods \
         addresses of that family and let them listen there (--listen-address=:8090 is all of them), or \
         remove it from the Service's ipFamilies"
    ))
}

/// Whether its ports are known in the pods.
fn check_ports(service: &Service, workload: &Workload) -> Option<String> {
    let missing = service.ports.iter().find(|port| workload.port(&port.target).is_none())?;
    let PortRef::Name(name) = &missing.target else { return None };
    Some(match workload.ports {
        Some(_) => format!(
            "has the targetPort {name:?}, and no container of the pod template has a port of that name: \
             name it there, or use the number"
        ),
        None => format!(
            "has the targetPort {name:?}, and this kind of workload does not name its pods' ports: use \
             the number"
        ),
    })
}

/// Whether other workloads or writers are in the way.
fn check_others(state: &State, service: &Service) -> Option<String> {
    let workloads = state.workloads_of(service);
    let scalers = workloads.iter().find(|id| state.workload(id).is_some_and(Workload::is_scaler));
    if let Some(id) = scalers {
        return Some(format!(
            "also selects the pods of {}, one of Scaler's own daemons: give the workload a Service of \
             its own",
            id.name
        ));
    }
    if workloads.len() > 1 {
        let names: Vec<_> = workloads.iter().map(|id| id.name.as_str()).collect();
        return Some(format!(
            "selects the pods of several workloads ({}), which are scaled independently: give each a \
             Service of its own",
            names.join(", ")
        ));
    }
    let mut slices = state.interception.slices_of(&service.meta.key());
    if slices.any(|slice| slice.ours.as_ref().is_some_and(|ours| ours.format > NEWEST)) {
        return Some(
            "has an EndpointSlice that a newer version of Scaler wrote: run that version, or delete the \
             slice"
                .to_owned(),
        );
    }
    if state.interception.selector_conflicts.is_suspended(&service.meta.uid, state.interception.now()) {
        return Some(format!(
            "lost the selector key {} {MAX_LOSSES} times to another writer: it is not intercepted for \
             an hour; install the chart's MutatingAdmissionPolicy, or exclude spec.selector from what that \
             writer applies (docs/gitops.md)",
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
        "the NetworkPolicy {name} restricts connections to its pods, and any client of a DLX could \
         reach them through it: allow only the DLXs, and have the operator set \
         interceptDespiteNetworkPolicies: true in the namespace file"
    ))
}

#[cfg(test)]
mod tests;
