//! A workload as the daemons see it.

use scaler_types::{Phase, Progress, Resource, ResourceId, Role, ScaleEvent};

use crate::{
    events::{reasons, warnings::WAKE_FAILED},
    index::{ListedWorkload, Projection, State, Warning, joined},
    interception,
    objects::{PodObject, Workload, annotations},
    workload::{
        endpoints::{self, PortSelection},
        hosts, options,
        pod_health::{Baseline, PodHealth, assess_pods},
    },
};

/// Why one of Scaler's own daemons is not managed.
const SCALERS_OWN: &str = "it is one of Scaler's own daemons (label scaler.dev/component of its pods), which are never scaled \
     to zero";

/// A workload as the daemons see it; `None`: there is no such one, or it is not managed.
fn listed(state: &State, id: &ResourceId) -> Option<ListedWorkload> {
    let workload = state.workload(id)?;
    let options = options::workload_options(state, workload);
    // What Scaler scaled to zero it also wakes, whatever its annotations say since.
    let ours = workload.replicas == 0
        && matches!(workload.stored.record.phase, Phase::Asleep | Phase::Waking | Phase::Failed);
    let status = interception::interception_status(state, workload, &options);
    // An intercepted Service is restored, too.
    if workload.deleting || !options.opted_in && !ours && !status.is_touched() {
        return None;
    }
    let mut resource = Resource::new(id.clone());
    let mut warnings = Vec::new();
    resource.traffic_mode = status.traffic_mode;
    resource.ports.clone_from(&status.ports);
    resource.interception.clone_from(&status.interception);
    resource.record = workload.stored.record.clone();
    resource.version = workload.version();
    resource.needs_repair = workload.needs_repair();
    resource.replicas = workload.replicas;
    (resource.last_scale_event, resource.last_scale_event_time) = last_event(state, workload);
    resource.hold_timeout = options.hold_timeout;
    resource.resource_readiness_timeout = options.readiness_timeout;
    resource.min_awake = options.min_awake;
    resource.rollout.clone_from(&workload.rollout);
    resource.sleep_now = workload.replicas > 0
        && workload
            .annotations
            .get(annotations::SLEEP_NOW)
            .is_some_and(|wish| !wish.is_empty() && !workload.stored.has_slept(wish));
    resource.wake_now = wake_now(workload);

    let (hosts, refused) = hosts::workload_hosts(state, workload, &options);
    resource.hosts = hosts;
    warnings.extend(refused.iter().map(|one| Warning {
        reason: reasons::HOST_REFUSED,
        message: format!("{}: the host {} is ignored: {}", annotations::HOSTS, one.host, one.why),
    }));

    let services = state.services_of(workload);
    let slices = services.iter().flat_map(|service| state.interception.slices_of(&service.meta.key()));
    let ours = slices.filter_map(|slice| slice.ours.as_ref()).flat_map(|ours| &ours.endpoints);
    let dlxs: Vec<_> = ours.map(|place| place.address.as_str()).collect();
    let service_ports = state.config.service_ports;
    let ports =
        PortSelection { requested: options.port.as_ref(), services: &services, dlxs: &dlxs, service_ports };
    let said = match (state.config.role, workload.replicas) {
        (Role::Dlx, 1..) => {
            let pods = state.pods.pods_of(id).filter(|pod| !state.pods.is_suspected(id, pod));
            running(&mut resource, workload, pods, &ports)
        }
        (Role::Dlx, 0) => match state.pods.pods_of(id).filter(|pod| pod.alive()).count() {
            0 => String::new(),
            pods => format!("{pods} pods from before it was last scaled to zero are still running"),
        },
        (Role::Autoscaler, _) => String::new(),
    };
    let unreadable = workload.unreadable.clone().unwrap_or_default();
    resource.status = joined(&[said, unreadable.clone()]);
    if !unreadable.is_empty() {
        warnings.push(Warning { reason: reasons::INVALID_ANNOTATION, message: unreadable });
    }

    let mut keep = Vec::new();
    for invalid in &options.invalid {
        keep.push(format!("invalid annotation: {invalid}"));
        warnings.push(Warning { reason: reasons::INVALID_ANNOTATION, message: invalid.to_string() });
    }
    if !options.opted_in {
        let own = workload.is_scaler();
        keep.push(if own { SCALERS_OWN } else { "it is opted out" }.to_owned());
    } else if !options.scales_to_zero {
        keep.push(format!(
            "it is scaled between its limits and not to zero, which {} sets",
            annotations::SCALE_TO_ZERO
        ));
    }
    if let Some(problem) = &options.invalid_combination {
        keep.push(format!("invalid annotation: {problem}"));
    }
    for problem in options.invalid_combination.iter().chain(&options.scaling_mistake) {
        warnings.push(Warning { reason: reasons::INVALID_ANNOTATION, message: problem.clone() });
    }
    if options.paused {
        keep.push(format!("paused ({})", annotations::PAUSED));
    }
    for conflict in state.scalers_of(workload).filter_map(|scaler| scaler.conflict()) {
        warnings.push(Warning {
            reason: reasons::CONFLICTING_AUTOSCALER,
            message: format!("kept awake: {conflict}"),
        });
        keep.push(conflict);
    }
    resource.scaling.clone_from(&options.scaling);
    if let Some(scaling) = &mut resource.scaling {
        (scaling.last_scaled, scaling.paused) = (workload.stored.last_scaled, options.paused);
    }
    // Why its metrics cannot wake it.
    let mut why_not_woken = options.why_unreadable();
    if options.scaling_options.has_target()
        && let Some(other) = state.scalers_of(workload).find_map(|scaler| scaler.takes_precedence())
    {
        warnings.push(Warning { reason: reasons::CONFLICTING_AUTOSCALER, message: other.clone() });
        resource.scaling = None;
        if options.scaling_options.wakes_by_metric() {
            // Its requests alone do not say whether it is idle.
            keep.push(other.clone());
        }
        why_not_woken.get_or_insert(other);
    }
    if let Some(why) = status.refusal() {
        if options.scaling_options.counts_requests() {
            // The DLXs do not count them, and none of them would count as none.
            resource.scaling = None;
            why_not_woken.get_or_insert_with(|| why.to_owned());
        }
        warnings.push(Warning { reason: reasons::INTERCEPTION_REFUSED, message: why.to_owned() });
        keep.push(why.to_owned());
    }
    let is_asleep = matches!(workload.stored.record.phase, Phase::Asleep | Phase::Failed);
    if let Some(why) =
        why_not_woken.filter(|_| options.goes_by_metrics && is_asleep && workload.replicas == 0)
        && resource.wake_now.is_empty()
    {
        resource.wake_now = format!("its queues or metrics could not have woken it: {why}");
    }
    if let Some(message) = interception::interception_by_default(state, workload, &options) {
        warnings.push(Warning { reason: reasons::INTERCEPTED_BY_DEFAULT, message });
    }
    if !workload.stored.record.failed_wake.is_empty() {
        let message = workload.stored.record.failed_wake.clone();
        warnings.push(Warning { reason: WAKE_FAILED, message });
    }
    resource.keep_awake = joined(&keep);
    resource.scale_resources = options.metrics;
    Some(ListedWorkload {
        resource,
        keep_awake_until: options.keep_awake_until,
        intercepted_since: status.intercepted_since,
        lacks_ports: status.lacks_ports,
        interception_wanted: status.wanted,
        warnings,
    })
}

/// Why it is to be woken now, if its users ask for it and that was not obeyed yet.
fn wake_now(workload: &Workload) -> String {
    let wish = workload.annotations.get(annotations::WAKE_NOW).filter(|wish| !wish.is_empty());
    let wish = wish.filter(|wish| workload.replicas == 0 && !workload.stored.has_woken(wish));
    wish.map(|wish| format!("{}: {wish}", annotations::WAKE_NOW)).unwrap_or_default()
}

/// A workload as the daemons see it, and why not.
pub(crate) fn project(state: &State, id: &ResourceId) -> Projection {
    Projection { listed: listed(state, id), not_managed: not_managed(state, id) }
}

/// The warning on one of Scaler's own daemons that is opted in by its own annotation: it is not managed.
fn not_managed(state: &State, id: &ResourceId) -> Option<Warning> {
    let workload = state.workload(id).filter(|workload| workload.is_scaler())?;
    let asks = workload.annotations.get(annotations::SCALE_TO_ZERO).is_some_and(|value| value != "false");
    let message = || format!("{}: {SCALERS_OWN}: remove the annotation", annotations::SCALE_TO_ZERO);
    asks.then(|| Warning { reason: reasons::OPT_IN_REFUSED, message: message() })
}

/// Endpoints, progress; gives what it waits for.
fn running<'a>(
    resource: &mut Resource,
    workload: &Workload,
    pods: impl Iterator<Item = &'a PodObject> + Clone,
    ports: &PortSelection<'_>,
) -> String {
    let alive = || pods.clone().filter(|pod| pod.alive());
    resource.endpoints = alive().filter_map(|pod| endpoints::pod_endpoint(pod, ports)).collect();
    resource.progress = alive()
        .filter_map(|pod| {
            let started = pod.serving().next().is_some() && pod.serving().all(|container| container.started);
            if started { Some(Progress::Started) } else { pod.scheduled.then_some(Progress::Scheduled) }
        })
        .max();
    if let Some(pod) = alive().find(|pod| ports.is_dlx(pod)) {
        return format!(
            "the pod {} gets no requests: it is a DLX, which would forward them to itself; change its \
             labels or the workload's selector so that the workload has only pods of its own",
            pod.meta.name
        );
    }
    if let Some(pod) = alive().find(|pod| pod.ip.is_some())
        && ports.select_port(pod).is_none()
    {
        return ports.missing();
    }
    match assess_pods(workload, pods, &Baseline::default()) {
        PodHealth::Ready => String::new(),
        PodHealth::Pending(what) | PodHealth::Failed(what) => what,
    }
}

/// What happened to its scale last. Somebody else's change of its specification is an update, which the autoscaler lets
/// be for a window.
fn last_event(state: &State, workload: &Workload) -> (Option<ScaleEvent>, Option<String>) {
    let kept = &workload.stored;
    let updated = kept.spec.as_ref().is_some_and(|spec| *spec != workload.spec);
    match state.changed_at(&workload.id()) {
        Some(at) => (Some(ScaleEvent::ResourceUpdated), Some(at.to_string())),
        None if updated => (Some(ScaleEvent::ResourceUpdated), kept.event_time.clone()),
        None => (kept.event, kept.event_time.clone()),
    }
}
