//! `GET /api/v1/list?namespace=`: all resources and their states, read when asked, not as of the last cycle.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
};

use bytes::Bytes;
use daemon::{
    admin::{Handler, json},
    members::Member,
};
use http::{Request, StatusCode};
use scaler_types::{Phase, Resource, ResourceId};
use serde::{Deserialize, Serialize};
use tokio::{task::JoinSet, time::Instant};

use super::{AdminView, CycleView, ago, parameter};
use crate::{
    cycle::states::{ResourceState, ScaleState},
    observe::members::Members,
};

#[derive(Serialize)]
struct List {
    /// Why not all is known, if so: plugins that could not list, DLXs that did not answer.
    errors: Vec<String>,
    resources: Vec<ListedResource>,
}

#[derive(Serialize)]
struct ListedResource {
    namespace: String,
    name: String,
    kind: String,
    /// `awake`, `asleep`, `waking`, `failed`, or `unknown`.
    state: &'static str,
    /// For how long it has been so, as seen by the cycles; null if that is not known.
    since: Option<String>,
    /// It has been so for at least this time: the autoscaler has not watched it for longer.
    at_least: Option<String>,
    /// It has been so for less than this time: it was different in the last cycle.
    at_most: Option<String>,
    replicas: u32,
    /// The replicas that it should have; null: others decide that, or it is not known yet.
    desired_replicas: Option<u32>,
    /// Requests at the resource; null if a DLX did not answer.
    in_flight: Option<u64>,
    /// Requests that wait until it is awake; null if a DLX did not answer.
    held: Option<u64>,
    reason: String,
}

/// What a DLX answers at `/api/v1/activity`, as far as it is needed.
#[derive(Deserialize)]
struct Requests {
    resources: Vec<ResourceRequests>,
}

#[derive(Deserialize)]
struct ResourceRequests {
    #[serde(flatten)]
    id: ResourceId,
    kind: String,
    in_flight: u64,
    held: u64,
}

/// What all DLXs have of each resource, by kind and identity: in flight and held.
#[derive(Default)]
struct RequestCounts {
    counts: HashMap<(String, ResourceId), (u64, u64)>,
    errors: Vec<String>,
}

// === impl AdminView ===

impl AdminView {
    /// `GET /api/v1/list`.
    pub(crate) fn list(&self, members: Members) -> Handler {
        let view = self.clone();
        Arc::new(move |request: Request<Bytes>| {
            let (view, members) = (view.clone(), members.clone());
            let namespace = parameter(&request, "namespace");
            Box::pin(async move { json(StatusCode::OK, &view.read_list(members, namespace).await) })
        })
    }

    async fn read_list(&self, members: Members, namespace: Option<String>) -> List {
        let wanted = |of: &str| namespace.as_deref().is_none_or(|namespace| namespace == of);
        let requests = RequestCounts::read(members).await;
        let known = requests.errors.is_empty();
        let mut list = List { errors: requests.errors, resources: Vec::new() };
        let cycles = self.0.cycles.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for ((kind, of), cycle) in cycles.iter().filter(|((_, of), _)| of == "*" || wanted(of)) {
            let plugin = cycle.active.borrow().plugin.clone();
            let listed = match plugin.get_resources().await {
                Ok(listed) => listed,
                Err(error) => {
                    list.errors.push(format!("plugin {kind} cannot list namespace {of}: {error}"));
                    continue;
                }
            };
            let entry = |resource: Resource, unreadable: Option<&str>| {
                let key = (kind.clone(), resource.id.clone());
                let counts = known.then(|| requests.counts.get(&key).copied().unwrap_or_default());
                ListedResource::new(kind, resource, unreadable, cycle, counts)
            };
            let unreadable = listed.unreadable.iter().filter_map(|unreadable| {
                let id = unreadable.id.clone().filter(|id| wanted(&id.namespace))?;
                Some(entry(Resource::new(id), Some(&unreadable.error)))
            });
            list.resources.extend(unreadable);
            let readable = listed.readable.into_iter().filter(|resource| wanted(&resource.id.namespace));
            list.resources.extend(readable.map(|resource| entry(resource, None)));
        }
        list.resources
            .sort_by(|a, b| (&a.namespace, &a.name, &a.kind).cmp(&(&b.namespace, &b.name, &b.kind)));
        list
    }
}

// === impl RequestCounts ===

impl RequestCounts {
    /// Asks all DLXs at once.
    async fn read(members: Members) -> Self {
        let mut all = Self::default();
        let live = match members.read().await {
            Ok(live) => live,
            Err(error) => {
                all.errors.push(format!("the DLXs cannot be listed: {error:#}"));
                return all;
            }
        };
        let mut questions = JoinSet::new();
        for member in live {
            let members = members.clone();
            questions.spawn(async move { read_requests(&members, &member).await });
        }
        while let Some(answer) = questions.join_next().await {
            match answer {
                Ok(Ok(requests)) => {
                    for ResourceRequests { id, kind, in_flight, held } in requests.resources {
                        let counts = all.counts.entry((kind, id)).or_default();
                        *counts = (counts.0 + in_flight, counts.1 + held);
                    }
                }
                Ok(Err(error)) => all.errors.push(error),
                Err(error) => all.errors.push(format!("the request to a DLX failed: {error}")),
            }
        }
        all.errors.sort();
        all
    }
}

async fn read_requests(members: &Members, member: &Member) -> Result<Requests, String> {
    let answer = members.get(member, "/api/v1/activity").await;
    let answer = answer.map_err(|why| format!("DLX {} is unreachable: {}", member.name, why.reason))?;
    serde_json::from_slice(&answer).map_err(|error| format!("DLX {}: its answer: {error}", member.name))
}

// === impl ListedResource ===

impl ListedResource {
    /// `unreadable`: what is wrong with what its plugin lists for it. `counts`: in flight and held, if known.
    fn new(
        kind: &str,
        resource: Resource,
        unreadable: Option<&str>,
        cycle: &CycleView,
        counts: Option<(u64, u64)>,
    ) -> Self {
        let now = Instant::now();
        let state = ScaleState::for_resource(&resource);
        let states = cycle.states.lock().unwrap_or_else(PoisonError::into_inner);
        // What the last cycle knows of it holds only if it is still so.
        let known = states.resources.get(&resource.id).filter(|_| unreadable.is_none());
        let same = known.filter(|known| known.scale_state.state == state);
        let (mut since, mut at_least, mut at_most) = (None, None, None);
        match (known, states.cycles.last) {
            (Some(known), _) if known.scale_state.state == state => {
                let age = Some(ago(now, known.scale_state.since));
                if known.scale_state.change_seen { since = age } else { at_least = age }
            }
            (Some(_), Some(last)) => at_most = Some(ago(now, last)),
            _ => {}
        }
        let scaling = cycle.scaling.status(&resource.id).filter(|scaling| scaling.desired.is_some());
        Self {
            kind: kind.to_owned(),
            state: unreadable.map_or(state.name(), |_| "unknown"),
            since,
            at_least,
            at_most,
            desired_replicas: scaling.as_ref().and_then(|scaling| scaling.desired),
            replicas: resource.replicas,
            in_flight: counts.map(|(in_flight, _)| in_flight),
            held: counts.map(|(_, held)| held),
            reason: match unreadable {
                Some(why) => format!("cannot read what its plugin lists for it: {why}"),
                None => match (reason(&resource, state, same), scaling) {
                    // Also why it has this number of replicas.
                    (awake, Some(scaling)) if state == ScaleState::Awake => {
                        format!("{awake}; {}", scaling.reason)
                    }
                    // It is about to be woken.
                    (asleep, Some(scaling)) if resource.record.phase == Phase::Active => {
                        format!("{asleep}; {}", scaling.reason)
                    }
                    (reason, _) => reason,
                },
            },
            namespace: resource.id.namespace,
            name: resource.id.name,
        }
    }
}

/// Why it is so. The autoscaler knows why a resource stays awake; why it is asleep or waking is in its record.
fn reason(resource: &Resource, state: ScaleState, known: Option<&ResourceState>) -> String {
    let record = &resource.record;
    match (state, known) {
        (ScaleState::Awake, Some(known)) => known.decision.to_string(),
        (ScaleState::Failed, _) if !record.failed_wake.is_empty() => record.failed_wake.clone(),
        (ScaleState::Asleep, _) if record.phase == Phase::Active => {
            match (resource.status.as_str(), resource.takes_no_requests()) {
                ("", false) => "it has no replicas; a request wakes it".to_owned(),
                ("", true) => "it has no replicas; its queues and metrics wake it".to_owned(),
                (status, _) => status.to_owned(),
            }
        }
        _ => record.reason.clone(),
    }
}
