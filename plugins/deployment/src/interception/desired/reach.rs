//! Which requests reach a DLX although no Service of their workload is intercepted: those that an Ingress or HTTPRoute sends there.

use crate::{
    index::State,
    objects::{
        Workload,
        annotations::{HOSTS, INTERCEPT},
    },
    workload::{hosts, options::WorkloadOptions},
};

/// Why no request could wake a workload whose Services are not intercepted, if so.
///
/// The names of its Services alone do not count: their clients connect to its pods, and to none while it is asleep. A worker that its
/// queue wakes needs no request.
pub(in crate::interception) fn unreachable(
    state: &State,
    workload: &Workload,
    options: &WorkloadOptions,
) -> Option<String> {
    let id = workload.id();
    if options.scaling_options.wakes_by_metric() && !options.scaling_options.counts_requests() {
        return None;
    }
    let by_operator = state.config.operators_hosts(&id.namespace, &id.name).next().is_some();
    if by_operator || existing_route(state, workload, options).is_some() {
        return None;
    }
    let (namespace, dlx) = (&workload.meta.namespace, &state.config.dlx_service);
    Some(format!(
        "no request could wake it: its Services are not intercepted ({INTERCEPT}: manual), no Ingress \
         or HTTPRoute of namespace {namespace} routes one of its hosts ({HOSTS}) to the DLXs' Service \
         ({dlx}; an HTTPRoute to another namespace's Service needs a ReferenceGrant there, and the \
         condition ResolvedRefs in its status, not with the reason RefNotPermitted), and \
         plugins.deployment.hosts of the namespace file does not name it: add one of these, or have its \
         Services intercepted ({INTERCEPT}: always)"
    ))
}

/// The warning for a workload that is intercepted by default, although a route sends its requests to the DLX.
pub(crate) fn interception_by_default(
    state: &State,
    workload: &Workload,
    options: &WorkloadOptions,
) -> Option<String> {
    if !options.wants_interception(state, workload) || options.intercept_is_set {
        return None;
    }
    let (route, host) = existing_route(state, workload, options)?;
    Some(format!(
        "its Services are intercepted by default, and {route} already routes requests for {host} to a \
         DLX: set {INTERCEPT}: manual to leave its Services as they are, or {INTERCEPT}: always to have \
         both"
    ))
}

/// The route that sends requests for one of its hosts to the DLXs, and the host.
fn existing_route(state: &State, workload: &Workload, options: &WorkloadOptions) -> Option<(String, String)> {
    let (hosts, _) = hosts::workload_hosts(state, workload, options);
    hosts.into_iter().find_map(|host| {
        let route = state.points_at_dlxs(&workload.meta.namespace, &host)?;
        Some((route, host))
    })
}
