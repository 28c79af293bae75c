//! The admin port's answers about resources (phase, decision, reason, interception), and requests to scale one to zero.

mod list;
mod series;
mod sleep;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use daemon::{
    admin::{Handler, json},
    leader::Status,
    members::serving,
};
use http::{Request, StatusCode};
use scaler_types::{Record, ResourceId, Rollout, ScaleEvent, ScaleResource, Version, duration::short};
use serde::Serialize;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    cycle::{
        SleepRequest,
        states::{ResourceState, ResourceStates},
    },
    http::percent_decode,
    interception::{InterceptionStatus, InterceptionTable, ServingDlxs},
    observe::{
        MetricReading, MetricValue, Sample,
        members::{self, Members},
    },
    plugin::ActivePlugin,
    scaling::{ScalingStatus, ScalingTable},
    telemetry::rounded,
};

pub(crate) use series::ResourceSeries;

/// A cycle's key: plugin kind and the file's namespace.
pub(crate) type CycleKey = (String, String);

/// The state that the admin port reads. Cheap to clone; clones share it.
#[derive(Clone, Default)]
pub(crate) struct AdminView(Arc<Shared>);

#[derive(Default)]
struct Shared {
    is_leader: AtomicBool,
    cycles: Mutex<BTreeMap<CycleKey, CycleView>>,
}

/// The state shown of a cycle, and the target of its sleep requests.
#[derive(Clone)]
pub(crate) struct CycleView {
    /// The cycle's resource states.
    pub(crate) states: Arc<Mutex<ResourceStates>>,
    /// The interceptor's table.
    pub(crate) interceptions: InterceptionTable,
    /// The scaler's table.
    pub(crate) scaling: ScalingTable,
    /// The ready DLXs, and the delays of interception.
    pub(crate) dlxs: ServingDlxs,
    /// Where `POST /api/v1/sleep` sends its requests.
    pub(crate) request_sleep: mpsc::Sender<SleepRequest>,
    /// The plugin that the cycle works with.
    pub(crate) active: watch::Receiver<ActivePlugin>,
}

#[derive(Serialize)]
struct Answer {
    leader: bool,
    cycles: Vec<CycleStatus>,
    resources: Vec<ResourceStatus>,
}

#[derive(Serialize)]
struct LeaderAnswer {
    #[serde(flatten)]
    status: Status,
    /// As the leader read them last; nothing where this process does not lead.
    members: Vec<members::DlxStatus>,
    /// DLXs that are ready to take requests; null if that is unknown.
    ready_dlxs: serving::ReadyDlxs,
}

#[derive(Serialize)]
struct CycleStatus {
    kind: String,
    namespace: String,
    count: u64,
    /// How long ago the last one began.
    last: Option<String>,
    took: String,
    error: Option<String>,
}

#[derive(Serialize)]
struct ResourceStatus {
    namespace: String,
    name: String,
    kind: String,
    traffic_mode: scaler_types::TrafficMode,
    /// Its interception, if its plugin can intercept it.
    interception: Option<InterceptionStatus>,
    record: Record,
    version: Version,
    replicas: u32,
    /// How many replicas it should have; null: others decide that.
    scaling: Option<ScalingStatus>,
    status: String,
    /// That it is woken too often, if so.
    frequent_wakes: Option<String>,
    /// The rollout of its current revision, where its plugin knows it.
    rollout: Option<Rollout>,
    decision: &'static str,
    code: &'static str,
    reason: String,
    since: String,
    in_progress: bool,
    last_event: Option<LastEvent>,
    last_attempt: Option<LastAttempt>,
    failure: Option<FailureStatus>,
    /// The metrics that decide, and their idle thresholds.
    metrics: Vec<MetricStatus>,
    samples: Vec<SampleStatus>,
}

#[derive(Serialize)]
struct MetricStatus {
    name: String,
    threshold: f64,
    /// The value of a metric source beside the DLXs; null if the DLXs are the source.
    value: Option<f64>,
    /// How far back that is known, or why there is no value.
    completeness: Option<String>,
}

#[derive(Serialize)]
struct LastEvent {
    event: ScaleEvent,
    /// How long ago this process saw it.
    ago: String,
    /// When, by the clock of the process that wrote it.
    time: Option<String>,
}

#[derive(Serialize)]
struct LastAttempt {
    outcome: &'static str,
    reason: String,
    ago: String,
}

#[derive(Serialize)]
struct FailureStatus {
    attempts: u32,
    reason: Arc<str>,
    next_in: String,
}

#[derive(Serialize)]
struct SampleStatus {
    member: Arc<str>,
    requests: u64,
    in_flight: u64,
    held: u64,
    idle: Option<String>,
    counted_for: String,
    windows: BTreeMap<String, u64>,
}

// === impl AdminView ===

impl AdminView {
    /// Sets whether this process is the leader.
    pub(crate) fn set_leader(&self, is_leader: bool) {
        self.0.is_leader.store(is_leader, Ordering::Relaxed);
    }

    /// Shows what a cycle knows; `None`: there is no such cycle any more.
    pub(crate) fn set_cycle(&self, key: CycleKey, cycle: Option<CycleView>) {
        let mut cycles = self.0.cycles.lock().unwrap_or_else(PoisonError::into_inner);
        match cycle {
            Some(cycle) => drop(cycles.insert(key, cycle)),
            None => drop(cycles.remove(&key)),
        }
    }

    /// `GET /api/v1/leader`: the leader, its DLXs, and which of them are ready.
    pub(crate) fn leader(
        &self,
        status: impl Fn() -> Status + Send + Sync + 'static,
        members: Members,
    ) -> Handler {
        let view = self.clone();
        Arc::new(move |_| {
            let status = status();
            let is_leader = status.is_leader;
            let members = if is_leader { members.statuses() } else { Vec::new() };
            let ready_dlxs = if is_leader { view.ready_dlxs() } else { None };
            let answer = LeaderAnswer { status, members, ready_dlxs };
            Box::pin(async move { json(StatusCode::OK, &answer) })
        })
    }

    /// What each cycle knows.
    fn for_each_cycle(&self, mut look: impl FnMut(&CycleKey, &ResourceStates)) {
        let cycles = self.0.cycles.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (key, CycleView { states, .. }) in &cycles {
            look(key, &states.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// The resources with a target per replica: kind, identity, replicas, and how many they should have.
    fn for_each_scaled(&self, mut look: impl FnMut(&str, &ResourceId, u32, &ScalingStatus)) {
        let cycles = self.0.cycles.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for ((kind, _), CycleView { scaling, .. }) in &cycles {
            for (id, replicas, status) in scaling.statuses() {
                look(kind, &id, replicas, &status);
            }
        }
    }

    /// All cycles lead by the same.
    fn ready_dlxs(&self) -> serving::ReadyDlxs {
        let cycles = self.0.cycles.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, cycle) = cycles.first_key_value()?;
        cycle.dlxs.serving.borrow().clone()
    }

    /// `GET /api/v1/resources`.
    pub(crate) fn resources(&self) -> Handler {
        let view = self.clone();
        Arc::new(move |_| {
            let answer = view.answer(|_| true);
            Box::pin(async move { json(StatusCode::OK, &answer) })
        })
    }

    /// `GET /api/v1/explain?namespace=&name=`: the same for one name.
    pub(crate) fn explain(&self) -> Handler {
        let view = self.clone();
        Arc::new(move |request: Request<_>| {
            let (namespace, name) = (parameter(&request, "namespace"), parameter(&request, "name"));
            let answer = view.answer(|state| {
                namespace.as_ref().is_none_or(|namespace| state.resource.id.namespace == *namespace)
                    && name.as_ref().is_none_or(|name| state.resource.id.name == *name)
            });
            let status = if answer.resources.is_empty() { StatusCode::NOT_FOUND } else { StatusCode::OK };
            Box::pin(async move { json(status, &answer) })
        })
    }

    fn answer(&self, wanted: impl Fn(&ResourceState) -> bool) -> Answer {
        let now = Instant::now();
        let cycles = self.0.cycles.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut answer = Answer {
            leader: self.0.is_leader.load(Ordering::Relaxed),
            cycles: Vec::new(),
            resources: Vec::new(),
        };
        for ((kind, namespace), CycleView { states, interceptions, scaling, dlxs, .. }) in cycles {
            let states = states.lock().unwrap_or_else(PoisonError::into_inner);
            answer.resources.extend(states.resources.values().filter(|state| wanted(state)).map(|state| {
                let id = &state.resource.id;
                ResourceStatus::new(now, &kind, state, interceptions.status(id, &dlxs), scaling.status(id))
            }));
            let cycles = &states.cycles;
            answer.cycles.push(CycleStatus {
                kind,
                namespace,
                count: cycles.count,
                last: cycles.last.map(|last| ago(now, last)),
                took: short(rounded(cycles.took)),
                error: cycles.error.clone(),
            });
        }
        answer
            .resources
            .sort_by(|a, b| (&a.namespace, &a.name, &a.kind).cmp(&(&b.namespace, &b.name, &b.kind)));
        answer
    }
}

/// A parameter of the request's query.
fn parameter<B>(request: &Request<B>, key: &str) -> Option<String> {
    let query = request.uri().query().unwrap_or_default();
    query.split('&').find_map(|pair| percent_decode(pair.strip_prefix(key)?.strip_prefix('=')?))
}

fn ago(now: Instant, then: Instant) -> String {
    short(rounded(now.duration_since(then)))
}

// === impl ResourceStatus ===

impl ResourceStatus {
    fn new(
        now: Instant,
        kind: &str,
        state: &ResourceState,
        interception: Option<InterceptionStatus>,
        scaling: Option<ScalingStatus>,
    ) -> Self {
        let resource = &state.resource;
        Self {
            namespace: resource.id.namespace.clone(),
            name: resource.id.name.clone(),
            kind: kind.to_owned(),
            traffic_mode: resource.traffic_mode,
            interception,
            record: resource.record.clone(),
            version: resource.version.clone(),
            replicas: resource.replicas,
            scaling,
            status: resource.status.clone(),
            frequent_wakes: state.wakes.frequent(now).map(|frequent| frequent.to_string()),
            rollout: resource.rollout.clone().filter(|_| resource.replicas > 0),
            decision: state.decision.name(),
            code: state.decision.code(),
            reason: state.decision.to_string(),
            since: ago(now, state.since),
            in_progress: state.in_progress,
            last_event: state.event.map(|(event, seen)| LastEvent {
                event,
                ago: ago(now, seen),
                time: resource.last_scale_event_time.clone(),
            }),
            last_attempt: state.last_attempt.as_ref().map(|(end, then)| LastAttempt {
                outcome: end.name(),
                reason: end.to_string(),
                ago: ago(now, *then),
            }),
            failure: state.failure.as_ref().map(|failure| FailureStatus {
                attempts: failure.attempts,
                reason: failure.reason.clone(),
                next_in: ago(failure.until, now),
            }),
            metrics: MetricStatus::all(state),
            samples: state.samples.iter().map(SampleStatus::new).collect(),
        }
    }
}

// === impl MetricStatus ===

impl MetricStatus {
    fn all(state: &ResourceState) -> Vec<Self> {
        let readings = state.readings.as_deref();
        let status = |metric: &ScaleResource| {
            let reading = readings.map(|readings| MetricReading::find(readings, metric));
            let (value, completeness) = match reading {
                None => (None, None),
                Some(None) => (None, Some("no value".to_owned())),
                Some(Some(MetricReading { value: MetricValue::Number(value), coverage, .. })) => {
                    (Some(*value), Some(coverage.to_string()))
                }
                Some(Some(MetricReading { value, coverage, .. })) => {
                    (None, Some(format!("{value}; {coverage}")))
                }
            };
            Self { name: metric.wire_name(), threshold: metric.threshold, value, completeness }
        };
        state.metrics.iter().map(status).collect()
    }
}

// === impl SampleStatus ===

impl SampleStatus {
    fn new(sample: &Sample) -> Self {
        Self {
            member: sample.member.clone(),
            requests: sample.requests,
            in_flight: sample.in_flight,
            held: sample.held,
            idle: sample.idle.map(|idle| short(rounded(idle))),
            counted_for: short(rounded(sample.counted_for)),
            windows: sample.counts.iter().map(|(window, count)| (short(*window), *count)).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
