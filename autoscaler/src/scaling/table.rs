//! The resources of one plugin in one namespace file whose replicas are chosen here, as the cycle and the admin port see them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use daemon::settings::Settings;
use scaler_types::ResourceId;
use serde::Serialize;
use tokio::time::Instant;

use super::resource::{RuleContext, ScaledResource};
use crate::observe::{
    queues::QueueHistory,
    work::{Work, WorkNotIdle},
};

/// The resources of one plugin in one namespace file whose replicas are chosen. Cheap to clone; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct ScalingTable(Arc<Mutex<Inner>>);

/// A scaler's state.
#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) resources: HashMap<ResourceId, ScaledResource>,
    /// The readings of the queues of all of them.
    pub(super) queues: HashMap<String, QueueHistory>,
}

/// How many replicas a resource should have, as the admin port shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ScalingStatus {
    /// So many; null: not known yet.
    pub(crate) desired: Option<u32>,
    /// The metric that decides, its value, and how much of it one replica is for.
    metric: Option<Arc<str>>,
    value: Option<f64>,
    target: Option<f64>,
    /// What keeps it from having as many as the metric asks for, in one word.
    limit: Option<&'static str>,
    /// Why this number, and why not more or fewer.
    pub(crate) reason: String,
    /// Why the last change failed, if it did.
    failed: Option<Arc<str>>,
    min_replicas: u32,
    max_replicas: u32,
    /// What each of its queues holds.
    pub(crate) queues: Vec<QueueStatus>,
}

/// A queue, as the admin port shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct QueueStatus {
    pub(crate) queue: String,
    /// Messages that wait, are in flight, or come later; null: not known.
    pub(crate) waiting: Option<u64>,
    pub(crate) in_flight: Option<u64>,
    pub(crate) delayed: Option<u64>,
    /// Why it could not be read, if so.
    error: Option<Arc<str>>,
}

// === impl ScalingTable ===

impl ScalingTable {
    /// Whether each resource with queues or metrics of its own has something to do.
    pub(crate) fn work(&self, now: Instant, settings: &Settings) -> HashMap<ResourceId, Work> {
        let inner = self.inner();
        let context = context(&inner.queues, now, settings);
        let work =
            |(id, resource): (&ResourceId, &ScaledResource)| Some((id.clone(), resource.work(context)?));
        inner.resources.iter().filter_map(work).collect()
    }

    /// Whether one resource has something to do; none: that is not decided here.
    pub(crate) fn work_of(&self, id: &ResourceId, settings: &Settings) -> Option<Work> {
        let inner = self.inner();
        inner.resources.get(id)?.work(context(&inner.queues, Instant::now(), settings))
    }

    /// How many replicas it should have; none: others decide that.
    pub(crate) fn status(&self, id: &ResourceId) -> Option<ScalingStatus> {
        let inner = self.inner();
        inner.status(inner.resources.get(id)?)
    }

    /// How many replicas each has and should have.
    pub(crate) fn statuses(&self) -> Vec<(ResourceId, u32, ScalingStatus)> {
        let inner = self.inner();
        let status = |scaled: &ScaledResource| {
            Some((scaled.resource.id.clone(), scaled.resource.replicas, inner.status(scaled)?))
        };
        inner.resources.values().filter_map(status).collect()
    }

    /// One that has just read so many waiting messages in each queue of this resource.
    #[cfg(test)]
    pub(crate) fn with_messages(resource: &scaler_types::Resource, waiting: u64) -> Self {
        let table = Self::default();
        {
            let mut inner = table.inner();
            for queue in resource.scaling.iter().flat_map(|scaling| &scaling.queues) {
                let reading = scaler_types::QueueReading {
                    waiting: Some(waiting),
                    in_flight: Some(0),
                    ..Default::default()
                };
                inner.queues.entry(queue.clone()).or_default().observe(Instant::now(), Ok(reading));
            }
            inner.resources.insert(resource.id.clone(), ScaledResource::new(resource.clone()));
        }
        table
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Inner ===

impl Inner {
    fn status(&self, scaled: &ScaledResource) -> Option<ScalingStatus> {
        let scaling = scaled.resource.scaling.as_ref()?;
        let desired = scaled.desired.as_ref();
        let by = desired.and_then(|desired| desired.by.as_ref());
        let now = Instant::now();
        let queue_status = |queue: &String| {
            let reading = self.queues.get(queue).map(|history| history.reading(now));
            let error = match &reading {
                Some(Ok(_)) => None,
                Some(Err(why)) => Some(why.clone()),
                None => Some(WorkNotIdle::NotRead.to_string().into()),
            };
            let reading = reading.and_then(Result::ok);
            QueueStatus {
                queue: queue.clone(),
                waiting: reading.and_then(|reading| reading.waiting),
                in_flight: reading.and_then(|reading| reading.in_flight),
                delayed: reading.and_then(|reading| reading.delayed),
                error,
            }
        };
        Some(ScalingStatus {
            desired: desired.map(|desired| desired.replicas),
            metric: by.map(|by| by.metric.clone()),
            value: by.map(|by| by.value),
            target: by.map(|by| by.target),
            limit: desired.map(|desired| desired.limit.code()),
            reason: match (desired, &scaled.busy, scaled.restart_pause(now)) {
                (None, ..) => "not known yet".to_owned(),
                (Some(desired), None, None) => desired.to_string(),
                (Some(desired), Some(busy), _) => format!("{desired}; not lowered yet: {busy}"),
                (Some(desired), None, Some(why)) => format!("{desired}; {why}"),
            },
            failed: scaled.failed.clone(),
            min_replicas: scaling.min_replicas,
            max_replicas: scaling.max_replicas,
            queues: scaling.queues.iter().map(queue_status).collect(),
        })
    }

    /// The queues that its resources name. Forgets all others.
    pub(super) fn take_queues(&mut self) -> BTreeSet<String> {
        let scaling = self.resources.values().filter_map(|scaled| scaled.resource.scaling.as_ref());
        let queues: BTreeSet<_> = scaling.flat_map(|scaling| scaling.queues.iter().cloned()).collect();
        self.queues.retain(|queue, _| queues.contains(queue));
        queues
    }
}

/// What the rule needs besides the resources themselves.
pub(super) fn context<'a>(
    queues: &'a HashMap<String, QueueHistory>,
    now: Instant,
    settings: &'a Settings,
) -> RuleContext<'a> {
    RuleContext {
        now,
        wall: wall_seconds(),
        compatibility: settings.compatibility,
        source: &settings.metrics,
        queues,
    }
}

/// Seconds since 1970 by this host's clock.
fn wall_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
