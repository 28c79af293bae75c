//! Where a workload's Services lead, as the daemons are told it.

use std::{collections::BTreeSet, time::Instant};

use scaler_types::{Backend, Interception, Port, Protocol, TrafficMode};

use super::{
    plan::{self, Given},
    refusals::{self, Refusal},
};
use crate::{
    config::InterceptMode,
    index::State,
    objects::{NEWEST, Ours, Service, Workload},
    workload::options::Wishes,
};

/// Where a workload's Services lead, and what is wanted of that.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// How requests reach it.
    pub path: TrafficMode,
    /// As the daemons are told; none: nothing is led and nobody wants it.
    pub route: Option<Interception>,
    /// Since when all that is new goes to the DLXs.
    pub led_since: Option<Instant>,
    /// The DLXs' ports that are its own.
    pub ports: Vec<Port>,
    /// It is refused for want of ports.
    pub short: bool,
    /// Its owners want its Services led.
    pub wanted: bool,
}

// === impl Look ===

impl Look {
    /// It is to be led, or kept awake.
    pub fn asks(&self) -> bool {
        self.route.as_ref().is_some_and(|route| route.requested)
    }

    /// Why it is not, though they want it.
    pub fn refusal(&self) -> Option<&str> {
        let route = self.route.as_ref().filter(|route| route.requested)?;
        Some(route.refusal.as_str()).filter(|why| !why.is_empty())
    }

    /// Something of ours is on its Services.
    pub fn is_touched(&self) -> bool {
        self.route.as_ref().is_some_and(|route| route.backend != Backend::Workload)
    }

    /// It is led, as it is to be, and nothing refuses that.
    pub fn leads_all_to_dlxs(&self) -> bool {
        self.led_since.is_some()
            && self.route.as_ref().is_some_and(|route| {
                route.backend == Backend::Dlx && route.in_sync && route.refusal.is_empty()
            })
    }
}

/// Looks where a workload's Services lead.
pub fn look(state: &State, workload: &Workload, wishes: &Wishes) -> Look {
    let refusal = match wishes.opted_in {
        true => refusals::refusal(state, workload, wishes, &state.routing.dlxs),
        false => None,
    };
    // What is refused is kept awake, and given back, also where its owners want none of its Services led.
    let wanted = wishes.opted_in && wishes.intercept != InterceptMode::Manual;
    let asked = wanted || refusal.is_some();
    let services = state.services_of(workload);
    let ours: Vec<&Ours> = services.iter().flat_map(|service| ours(state, service)).collect();
    let leads = if services.iter().any(|service| service.fenced) {
        Backend::Dlx
    } else if ours.is_empty() {
        Backend::Workload
    } else {
        Backend::Both
    };
    let path = match wishes.intercept {
        InterceptMode::WhenAsleep if wishes.opted_in => TrafficMode::WhenAsleep,
        _ => TrafficMode::Always,
    };
    let id = workload.id();
    let led_since = state.routing.led_since(&id).filter(|_| leads == Backend::Dlx);
    let short = matches!(refusal, Some(Refusal::NoPort(_)));
    let route = (asked || leads != Backend::Workload).then(|| {
        let ordinary = state.ordinary_services_of(workload);
        let dlxs: BTreeSet<&String> = ours.iter().flat_map(|ours| &ours.dlxs).collect();
        Interception {
            requested: asked,
            refusal: refusal.map(Refusal::text).unwrap_or_default(),
            backend: leads,
            in_sync: match leads {
                Backend::Workload | Backend::Unknown => true,
                Backend::Both => ordinary.iter().all(|service| is_complete(state, service)),
                Backend::Dlx => ordinary.iter().all(|service| service.fenced && is_complete(state, service)),
            },
            // Told by the time of the listing.
            intercepted_for: std::time::Duration::ZERO,
            workload_ready: !ordinary.is_empty()
                && ordinary.iter().all(|service| state.routing.is_ready(service)),
            dlxs: dlxs.into_iter().cloned().collect(),
        }
    });
    let ports = ports(state, workload, &services);
    Look { path, route, led_since, ports, short, wanted }
}

/// The ports of the DLXs that a Service's have now, if all of them have one.
pub fn given(state: &State, service: &Service) -> Option<Given> {
    let (range, registry) = (state.config.service_ports?, state.routing.registry()?);
    let holders = plan::holders(service).into_iter();
    holders.map(|holder| Some((holder.port.clone(), registry.held(&holder, range)?))).collect()
}

/// Whether a Service's slices are as they would be written again with the DLXs that they name, and lead every client to one.
pub fn is_complete(state: &State, service: &Service) -> bool {
    let Some(given) = given(state, service) else { return false };
    let ours: Vec<&Ours> = ours(state, service).collect();
    let known = &state.routing.dlxs;
    let is_right = |ours: &&Ours| {
        let family = ours.family.filter(|family| service.families.contains(family));
        let named: Option<Vec<_>> =
            ours.dlxs.iter().map(|name| known.iter().find(|dlx| dlx.name == *name).cloned()).collect();
        let endpoints = match (named, family) {
            // Who they are was not told, or they are no more: their addresses are whatever they were.
            (None, _) => ours.endpoints.len() == ours.dlxs.len(),
            (Some(named), Some(family)) => plan::places(&named, family).0 == ours.endpoints,
            (Some(_), None) => false,
        };
        family.is_some()
            && ours.format == NEWEST
            && ours.uid == service.meta.uid
            && ours.ports == given
            && endpoints
            && !ours.endpoints.is_empty()
            && ours.endpoints.iter().all(|place| place.ready)
    };
    let all = !ours.is_empty() && ours.len() == service.families.len() && ours.iter().all(is_right);
    // What names DLXs that are no more is right but for that.
    all && plan::unreached(service, known).is_none()
}

/// The DLXs' ports of a workload: those given to its Services and those given back that stand there still; and what its slices
/// name, should the registry have been lost.
fn ports(state: &State, workload: &Workload, services: &[&Service]) -> Vec<Port> {
    let mut ports = Vec::new();
    for service in services {
        let registry = state.routing.registry();
        let given = registry.into_iter().flat_map(|registry| registry.of(&service.meta.uid));
        let given = given.map(|(port, entry)| (port, entry.holder.port.as_str()));
        let named = ours(state, service).flat_map(|ours| &ours.ports);
        let named = named.map(|(name, port)| (*port, name.as_str()));
        let lost = named.filter(|(port, _)| !registry.is_some_and(|registry| registry.has(*port)));
        for (listen, name) in given.chain(lost) {
            let of = service.ports.iter().find(|port| port.name == name);
            ports.push(Port {
                listen,
                target: of.and_then(|port| workload.port(&port.target)),
                protocol: of.map_or(Protocol::Tcp, plan::protocol),
                guessed: of.is_some_and(plan::is_guessed),
            });
        }
    }
    ports.sort_by_key(|port| port.listen);
    ports.dedup_by_key(|port| port.listen);
    ports
}

/// What the slices of ours of a Service say.
fn ours<'a>(state: &'a State, service: &Service) -> impl Iterator<Item = &'a Ours> + use<'a> {
    state.routing.slices_of(&service.meta.key()).filter_map(|slice| slice.ours.as_ref())
}

#[cfg(test)]
mod tests;
