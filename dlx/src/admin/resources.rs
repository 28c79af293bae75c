//! `GET /api/v1/resources`: each resource as this DLX sees it, and why.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use daemon::admin::json;
use http::{Request, Response, StatusCode};
use scaler_types::{Interception, Port, ServicePorts, duration};
use serde::Serialize;

use super::Body;
use crate::{
    stages::Stages,
    state::{Conflict, PortOwner, ResourceHandle, ResourceView},
};

#[derive(Serialize)]
struct Everything {
    member: String,
    /// It refuses new connections.
    shutting_down: bool,
    /// After the first signal: why connections are still accepted.
    stopping: Option<String>,
    /// Interceptions that name this DLX.
    interceptions: usize,
    resources: Vec<Resource>,
    /// Hosts and ports that two resources claim; the older resource has them.
    conflicts: Vec<Conflict>,
    /// The range of `--service-ports`: all of it is bound.
    service_ports: Option<ServicePorts>,
    /// Connections that were reset because no resource has their port.
    unassigned_connections: u64,
    /// Ports that have an owner.
    ports: Vec<BoundPort>,
}

#[derive(Serialize)]
struct Resource {
    namespace: String,
    name: String,
    kind: String,
    traffic_mode: scaler_types::TrafficMode,
    phase: String,
    reason: String,
    nonce: String,
    version: String,
    replicas: u32,
    status: String,
    open: bool,
    waking: bool,
    hosts: Vec<String>,
    ports: Vec<Port>,
    /// The interception of its Service, if its plugin supports that.
    interception: Option<Interception>,
    endpoints: Vec<Endpoint>,
    requests: u64,
    in_flight: u64,
    held: usize,
    held_bytes: u64,
    idle: Option<String>,
    /// The value for it: its own, or its namespace file's.
    hold_timeout: String,
    /// See `hold_timeout`.
    resource_readiness_timeout: String,
    cold_start: Option<ColdStart>,
    last_error: Option<String>,
}

#[derive(Serialize)]
struct Endpoint {
    address: String,
    incarnation: String,
    ready: bool,
    error: Option<String>,
}

/// How the last held request spent its time.
#[derive(Serialize)]
struct ColdStart {
    hold_ms: f64,
    wake_ms: Option<f64>,
    /// The phases of the wake, one after the other.
    phases_ms: BTreeMap<&'static str, f64>,
}

#[derive(Serialize)]
struct BoundPort {
    listen: u16,
    resource: String,
    error: Option<String>,
}

/// Handles the request.
pub(crate) async fn answer(dlx: Arc<Stages>, _: Request<Bytes>) -> Response<Body> {
    let resources =
        dlx.resources.all().iter().map(|resource| resource.read(|view| describe(resource, view))).collect();
    let table = dlx.resources.table();
    let port = |identity: &PortOwner, error| BoundPort {
        listen: identity.port.listen,
        resource: identity.resource.key.id.to_string(),
        error,
    };
    let service_ports = dlx.service_ports;
    let is_service = |number: u16| service_ports.is_some_and(|all| all.contains(number));
    let service = table.ports().filter(|identity| is_service(identity.port.listen));
    let own = dlx.ports.all();
    let ports = service.map(|identity| port(identity, None));
    let ports = ports.chain(own.iter().map(|bound| port(&bound.identity, bound.error.clone())));
    let everything = Everything {
        member: dlx.member.clone(),
        shutting_down: dlx.stopping.draining.is_cancelled(),
        stopping: dlx.stopping.signalled.is_cancelled().then(|| dlx.stopping.interceptions.to_string()),
        interceptions: dlx.stopping.interceptions.count(),
        resources,
        conflicts: table.conflicts.clone(),
        service_ports,
        unassigned_connections: dlx.metrics.unassigned.get(),
        ports: ports.collect(),
    };
    json(StatusCode::OK, &everything)
}

fn describe(resource: &ResourceHandle, view: &ResourceView) -> Resource {
    let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
    let seen = view.gate.seen();
    let listing = &view.resource;
    let settings = view.settings();
    Resource {
        namespace: resource.key.id.namespace.clone(),
        name: resource.key.id.name.clone(),
        kind: resource.key.kind.to_string(),
        traffic_mode: listing.traffic_mode,
        phase: seen.map_or_else(|| "gone".to_owned(), |seen| seen.record.phase.to_string()),
        reason: seen.map(|seen| seen.record.reason.clone()).unwrap_or_default(),
        nonce: seen.map(|seen| seen.record.nonce.to_string()).unwrap_or_default(),
        version: seen.map(|seen| seen.version.to_string()).unwrap_or_default(),
        replicas: listing.replicas,
        status: listing.status.clone(),
        open: view.gate.open(),
        waking: view.gate.waking(),
        hosts: listing.hosts.clone(),
        ports: listing.ports.clone(),
        interception: listing.interception.clone(),
        endpoints: view
            .listed
            .iter()
            .map(|listed| Endpoint {
                address: listed.target.endpoint.address.clone(),
                incarnation: listed.target.endpoint.incarnation.clone(),
                ready: listed.ready,
                error: listed.error.clone(),
            })
            .collect(),
        requests: resource.counts.total(),
        in_flight: resource.counts.in_flight(),
        held: resource.queue.len(),
        held_bytes: resource.queue.bytes(),
        hold_timeout: duration::short(settings.hold_timeout),
        resource_readiness_timeout: duration::short(settings.resource_readiness_timeout),
        idle: resource.counts.idle().map(duration::short),
        cold_start: view.last_cold.map(|cold| ColdStart {
            hold_ms: ms(cold.hold),
            wake_ms: cold.wake.map(ms),
            phases_ms: cold.phases.millis().map(|(phase, ms)| (phase.name(), ms)).collect(),
        }),
        last_error: view.unreadable.clone().or_else(|| view.last_error.clone()),
    }
}
