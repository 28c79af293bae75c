//! Which requests reach a DLX though no Service of their workload leads there: those that somebody else points at it.

use crate::{
    index::State,
    objects::{
        Workload,
        annotations::{HOSTS, INTERCEPT},
    },
    workload::{hosts, options::WorkloadOptions},
};

/// Why no request could wake a workload whose Services are left as they are, if so.
///
/// The names of its Services alone lead nowhere: whoever uses them comes to its pods, and asleep to nobody.
pub(in crate::interception) fn unreachable(
    state: &State,
    workload: &Workload,
    options: &WorkloadOptions,
) -> Option<String> {
    let id = workload.id();
    let given = state.config.operators_hosts(&id.namespace, &id.name).next().is_some();
    if given || existing_route(state, workload, options).is_some() {
        return None;
    }
    let (namespace, dlx) = (&workload.meta.namespace, &state.config.dlx_service);
    Some(format!(
        "no request could wake it: its Services are left as they are ({INTERCEPT}: none), no Ingress or HTTPRoute of namespace {namespace} \
         leads one of its hosts ({HOSTS}) to the DLXs' Service ({dlx}; an HTTPRoute to another namespace's needs a ReferenceGrant there, \
         and the condition ResolvedRefs in its status, not with the reason RefNotPermitted), and plugins.deployment.hosts of the namespace file does not \
         name it: add one of these, or have its Services led ({INTERCEPT}: service)"
    ))
}

/// What the owners are to be told of a workload that is led by default, though somebody points its requests at the DLX.
pub(crate) fn interception_by_default(
    state: &State,
    workload: &Workload,
    options: &WorkloadOptions,
) -> Option<String> {
    if !options.opted_in || options.intercept_is_set {
        return None;
    }
    let (route, host) = existing_route(state, workload, options)?;
    Some(format!(
        "its Services are to lead to the DLXs, as those of everything that opts in, and {route} leads requests for {host} to a DLX \
         already: say {INTERCEPT}: none to leave its Services as they are, or {INTERCEPT}: service to have both"
    ))
}

/// Who leads requests for one of its hosts to the DLXs, and for which.
fn existing_route(state: &State, workload: &Workload, options: &WorkloadOptions) -> Option<(String, String)> {
    let (hosts, _) = hosts::workload_hosts(state, workload, options);
    hosts.into_iter().find_map(|host| {
        let route = state.points_at_dlxs(&workload.meta.namespace, &host)?;
        Some((route, host))
    })
}
