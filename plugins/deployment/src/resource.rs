//! A workload as the daemons see it.

use scaler_types::{Phase, Progress, Resource, ResourceId, Role, ScaleEvent};

use crate::{
    events::warnings::WAKE_FAILED,
    index::{Complaint, Listed, Projection, State, joined},
    interception,
    objects::{Pod, Workload, annotations},
    workload::{
        endpoints::{self, Ports},
        hosts, options,
        pod_health::{Baseline, Outlook, outlook},
    },
};

/// Why one of Scaler's own daemons is not looked after.
const SCALERS_OWN: &str =
    "it is one of Scaler's own daemons (its pods' label scaler.dev/component), which are never put to sleep";

/// A workload as the daemons see it; `None`: there is no such one, or it is not to be looked after.
fn listed(state: &State, id: &ResourceId) -> Option<Listed> {
    let workload = state.workload(id)?;
    let wishes = options::wishes(state, workload);
    // What was put to sleep here is woken here, whatever its owners say since.
    let ours = workload.replicas == 0
        && matches!(workload.kept.record.phase, Phase::Asleep | Phase::Waking | Phase::Failed);
    let routed = interception::look(state, workload, &wishes);
    // What was led here is given back, too.
    if workload.deleting || !wishes.opted_in && !ours && !routed.is_touched() {
        return None;
    }
    let mut resource = Resource::new(id.clone());
    let mut complaints = Vec::new();
    resource.traffic_mode = routed.path;
    resource.ports.clone_from(&routed.ports);
    resource.interception.clone_from(&routed.route);
    resource.record = workload.kept.record.clone();
    resource.version = workload.version();
    resource.needs_repair = workload.needs_repair();
    resource.replicas = workload.replicas;
    (resource.last_scale_event, resource.last_scale_event_time) = last_event(state, workload);
    resource.hold_timeout = wishes.hold_timeout;
    resource.resource_readiness_timeout = wishes.readiness_timeout;
    resource.min_awake = wishes.min_awake;
    resource.rollout.clone_from(&workload.rollout);
    resource.sleep_now = workload.replicas > 0
        && workload
            .annotations
            .get(annotations::SLEEP_NOW)
            .is_some_and(|wish| !wish.is_empty() && !workload.kept.has_obeyed(wish));

    let (hosts, refused) = hosts::of_workload(state, workload, &wishes);
    resource.hosts = hosts;
    complaints.extend(refused.iter().map(|one| Complaint {
        reason: "HostRefused",
        message: format!("{}: the host {} does not count: {}", annotations::HOSTS, one.host, one.why),
    }));

    let services = state.services_of(workload);
    let slices = services.iter().flat_map(|service| state.routing.slices_of(&service.meta.key()));
    let ours = slices.filter_map(|slice| slice.ours.as_ref()).flat_map(|ours| &ours.endpoints);
    let dlxs: Vec<_> = ours.map(|place| place.address.as_str()).collect();
    let service_ports = state.config.service_ports;
    let ports = Ports { asked: wishes.port.as_ref(), services: &services, dlxs: &dlxs, service_ports };
    let said = match (state.config.role, workload.replicas) {
        (Role::Dlx, 1..) => {
            let pods = state.pods.of(id).filter(|pod| !state.pods.is_suspected(id, pod));
            running(&mut resource, workload, pods, &ports)
        }
        (Role::Dlx, 0) => match state.pods.of(id).filter(|pod| pod.alive()).count() {
            0 => String::new(),
            pods => format!("{pods} of its pods from before its last sleep still run"),
        },
        (Role::Autoscaler, _) => String::new(),
    };
    let unreadable = workload.unreadable.clone().unwrap_or_default();
    resource.status = joined(&[said, unreadable.clone()]);
    if !unreadable.is_empty() {
        complaints.push(Complaint { reason: "InvalidAnnotation", message: unreadable });
    }

    let mut keep = Vec::new();
    for wrong in &wishes.wrong {
        keep.push(format!("an annotation of it cannot be used: {wrong}"));
        complaints.push(Complaint { reason: "InvalidAnnotation", message: wrong.clone() });
    }
    if !wishes.opted_in {
        let own = workload.is_scaler();
        keep.push(if own { SCALERS_OWN } else { "its owners opted out" }.to_owned());
    }
    if wishes.paused {
        keep.push(format!("its owners paused it ({})", annotations::PAUSED));
    }
    for clash in state.scalers_of(workload).filter_map(|scaler| scaler.clash()) {
        complaints.push(Complaint { reason: "TwoScalers", message: format!("it is kept awake: {clash}") });
        keep.push(clash);
    }
    if let Some(why) = routed.refusal() {
        complaints.push(Complaint { reason: "RouteRefused", message: why.to_owned() });
        keep.push(why.to_owned());
    }
    if let Some(message) = interception::by_default(state, workload, &wishes) {
        complaints.push(Complaint { reason: "RouteByDefault", message });
    }
    if !workload.kept.record.failed_wake.is_empty() {
        let message = workload.kept.record.failed_wake.clone();
        complaints.push(Complaint { reason: WAKE_FAILED, message });
    }
    resource.keep_awake = joined(&keep);
    resource.scale_resources = wishes.metrics;
    Some(Listed {
        resource,
        keep_awake_until: wishes.keep_awake_until,
        led_since: routed.led_since,
        short: routed.short,
        wanted: routed.wanted,
        complaints,
    })
}

/// A workload as the daemons see it, and why not.
pub fn project(state: &State, id: &ResourceId) -> Projection {
    Projection { listed: listed(state, id), not_managed: not_managed(state, id) }
}

/// What the owners are to be told of a workload that is not looked after: it asks for that itself, and is one of Scaler's own daemons.
fn not_managed(state: &State, id: &ResourceId) -> Option<Complaint> {
    let workload = state.workload(id).filter(|workload| workload.is_scaler())?;
    let asks = workload.annotations.get(annotations::SCALE_TO_ZERO).is_some_and(|value| value != "false");
    let message = || format!("{}: {SCALERS_OWN}: take the annotation away", annotations::SCALE_TO_ZERO);
    asks.then(|| Complaint { reason: "OptInRefused", message: message() })
}

/// Endpoints, progress; gives what it waits for.
fn running<'a>(
    resource: &mut Resource,
    workload: &Workload,
    pods: impl Iterator<Item = &'a Pod> + Clone,
    ports: &Ports<'_>,
) -> String {
    let alive = || pods.clone().filter(|pod| pod.alive());
    resource.endpoints = alive().filter_map(|pod| endpoints::endpoint(pod, ports)).collect();
    resource.progress = alive()
        .filter_map(|pod| {
            let started = pod.serving().next().is_some() && pod.serving().all(|container| container.started);
            if started { Some(Progress::Started) } else { pod.scheduled.then_some(Progress::Scheduled) }
        })
        .max();
    if let Some(pod) = alive().find(|pod| ports.is_dlx(pod)) {
        return format!(
            "the pod {} gets no requests: it is a DLX, and they would come back; change its labels or the \
             workload's selector so that the workload has only pods of its own",
            pod.meta.name
        );
    }
    if let Some(pod) = alive().find(|pod| pod.ip.is_some())
        && ports.of(pod).is_none()
    {
        return ports.missing();
    }
    match outlook(workload, pods, &Baseline::default()) {
        Outlook::Ready => String::new(),
        Outlook::Coming(what) | Outlook::Never(what) => what,
    }
}

/// What happened to its scale last. Somebody else's change of its specification is an update, which the autoscaler lets
/// be for a window.
fn last_event(state: &State, workload: &Workload) -> (Option<ScaleEvent>, Option<String>) {
    let kept = &workload.kept;
    let updated = kept.spec.as_ref().is_some_and(|spec| *spec != workload.spec);
    match state.changed_at(&workload.id()) {
        Some(at) => (Some(ScaleEvent::ResourceUpdated), Some(at.to_string())),
        None if updated => (Some(ScaleEvent::ResourceUpdated), kept.event_time.clone()),
        None => (kept.event, kept.event_time.clone()),
    }
}
