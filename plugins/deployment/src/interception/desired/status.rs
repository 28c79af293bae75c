//! How a workload's Services are intercepted, as the daemons see it.

use std::{collections::BTreeSet, time::Instant};

use scaler_types::{Backend, Interception, Port, Protocol, TrafficMode};

use super::{
    plan::{self, AssignedPorts},
    refusals::{self, InterceptionRefusal},
};
use crate::{
    config::InterceptMode,
    index::State,
    objects::{DlxSlice, NEWEST, Service, Workload},
    workload::options::WorkloadOptions,
};

/// How a workload's Services are intercepted, and are to be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WorkloadInterception {
    /// Its traffic mode.
    pub(crate) traffic_mode: TrafficMode,
    /// As the daemons see it; none: nothing is intercepted or to be.
    pub(crate) interception: Option<Interception>,
    /// Since when all new connections go to the DLXs.
    pub(crate) intercepted_since: Option<Instant>,
    /// The DLXs' ports that are its own.
    pub(crate) ports: Vec<Port>,
    /// It is refused for want of ports.
    pub(crate) lacks_ports: bool,
    /// Its Services are to be intercepted.
    pub(crate) wanted: bool,
}

// === impl WorkloadInterception ===

impl WorkloadInterception {
    /// It is to be intercepted, or kept awake.
    pub(crate) fn is_requested(&self) -> bool {
        self.interception.as_ref().is_some_and(|interception| interception.requested)
    }

    /// Why it is not, though they want it.
    pub(crate) fn refusal(&self) -> Option<&str> {
        let interception = self.interception.as_ref().filter(|interception| interception.requested)?;
        Some(interception.refusal.as_str()).filter(|why| !why.is_empty())
    }

    /// Something of Scaler's is on its Services.
    pub(crate) fn is_touched(&self) -> bool {
        self.interception.as_ref().is_some_and(|interception| interception.backend != Backend::Workload)
    }

    /// It is intercepted, in sync and not refused.
    pub(crate) fn is_fully_intercepted(&self) -> bool {
        self.intercepted_since.is_some()
            && self.interception.as_ref().is_some_and(|interception| {
                interception.backend == Backend::Dlx
                    && interception.in_sync
                    && interception.refusal.is_empty()
            })
    }
}

/// Works out how a workload's Services are intercepted.
pub(crate) fn interception_status(
    state: &State,
    workload: &Workload,
    options: &WorkloadOptions,
) -> WorkloadInterception {
    let refusal = match options.needs_dlxs(state, workload) {
        true => refusals::check_interception(state, workload, options, &state.interception.dlxs),
        false => None,
    };
    // A refused workload is kept awake and restored, also where its Services are not to be intercepted.
    let wanted = options.wants_interception(state, workload);
    let requested = wanted || refusal.is_some();
    let services = state.services_of(workload);
    let ours: Vec<&DlxSlice> = services.iter().flat_map(|service| dlx_slices(state, service)).collect();
    let backend = if services.iter().any(|service| service.intercepted) {
        Backend::Dlx
    } else if ours.is_empty() {
        Backend::Workload
    } else {
        Backend::Both
    };
    let traffic_mode = match options.intercept {
        InterceptMode::WhenAsleep if wanted => TrafficMode::WhenAsleep,
        _ => TrafficMode::Always,
    };
    let id = workload.id();
    let intercepted_since = state.interception.intercepted_since(&id).filter(|_| backend == Backend::Dlx);
    let lacks_ports = matches!(refusal, Some(InterceptionRefusal::NoPort(_)));
    let interception = (requested || backend != Backend::Workload).then(|| {
        let ordinary = state.ordinary_services_of(workload);
        let dlxs: BTreeSet<&String> = ours.iter().flat_map(|ours| &ours.dlxs).collect();
        Interception {
            requested,
            refusal: refusal.map(InterceptionRefusal::text).unwrap_or_default(),
            backend,
            in_sync: match backend {
                Backend::Workload | Backend::Unknown => true,
                Backend::Both => ordinary.iter().all(|service| is_complete(state, service)),
                Backend::Dlx => {
                    ordinary.iter().all(|service| service.intercepted && is_complete(state, service))
                }
            },
            // Told by the time of the listing.
            intercepted_for: std::time::Duration::ZERO,
            workload_ready: !ordinary.is_empty()
                && ordinary.iter().all(|service| state.interception.is_ready(service)),
            dlxs: dlxs.into_iter().cloned().collect(),
            note: state.interception.key_policy.note().to_owned(),
        }
    });
    let ports = dlx_ports(state, workload, &services);
    WorkloadInterception { traffic_mode, interception, intercepted_since, ports, lacks_ports, wanted }
}

/// The ports of the DLXs that a Service's have now, if all of them have one.
pub(crate) fn assigned_ports(state: &State, service: &Service) -> Option<AssignedPorts> {
    let (range, registry) = (state.config.service_ports?, state.interception.registry()?);
    let holders = plan::port_holders(service).into_iter();
    holders.map(|holder| Some((holder.port.clone(), registry.held(&holder, range)?))).collect()
}

/// Whether a Service's slices are as they would be written again with the DLXs that they name, and give every client an endpoint.
pub(crate) fn is_complete(state: &State, service: &Service) -> bool {
    let Some(assigned) = assigned_ports(state, service) else { return false };
    let ours: Vec<&DlxSlice> = dlx_slices(state, service).collect();
    let known = &state.interception.dlxs;
    let is_right = |ours: &&DlxSlice| {
        let family = ours.family.filter(|family| service.families.contains(family));
        let named: Option<Vec<_>> =
            ours.dlxs.iter().map(|name| known.iter().find(|dlx| dlx.name == *name).cloned()).collect();
        let endpoints = match (named, family) {
            // They are not known, or gone: their addresses are whatever they were.
            (None, _) => ours.endpoints.len() == ours.dlxs.len(),
            (Some(named), Some(family)) => plan::dlx_endpoints(&named, family).0 == ours.endpoints,
            (Some(_), None) => false,
        };
        family.is_some()
            && ours.format == NEWEST
            && ours.uid == service.meta.uid
            && ours.ports == assigned
            && endpoints
            && !ours.endpoints.is_empty()
            && ours.endpoints.iter().all(|place| place.ready)
    };
    let all = !ours.is_empty() && ours.len() == service.families.len() && ours.iter().all(is_right);
    // What names DLXs that are no more is right but for that.
    all && plan::unreachable_family(service, known).is_none()
}

/// The DLX ports of a workload: those assigned to its Services, freed ones that are still entered, and what its slices
/// name, should the registry have been lost.
fn dlx_ports(state: &State, workload: &Workload, services: &[&Service]) -> Vec<Port> {
    let mut ports = Vec::new();
    for service in services {
        let registry = state.interception.registry();
        let assigned = registry.into_iter().flat_map(|registry| registry.entries_of(&service.meta.uid));
        let assigned = assigned.map(|(port, entry)| (port, entry.holder.port.as_str()));
        let named = dlx_slices(state, service).flat_map(|ours| &ours.ports);
        let named = named.map(|(name, port)| (*port, name.as_str()));
        let lost = named.filter(|(port, _)| !registry.is_some_and(|registry| registry.has(*port)));
        for (listen, name) in assigned.chain(lost) {
            let of = service.ports.iter().find(|port| port.name == name);
            ports.push(Port {
                listen,
                target: of.and_then(|port| workload.port(&port.target)),
                protocol: of.map_or(Protocol::Tcp, plan::port_protocol),
                guessed: of.is_some_and(plan::is_guessed),
            });
        }
    }
    ports.sort_by_key(|port| port.listen);
    ports.dedup_by_key(|port| port.listen);
    ports
}

/// What the slices of ours of a Service say.
fn dlx_slices<'a>(state: &'a State, service: &Service) -> impl Iterator<Item = &'a DlxSlice> + use<'a> {
    state.interception.slices_of(&service.meta.key()).filter_map(|slice| slice.ours.as_ref())
}

#[cfg(test)]
mod tests;
