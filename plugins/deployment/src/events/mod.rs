//! Events on workloads.
//!
//! Every text is an Event of its own: but for its series nothing of an Event can be changed. The same text again is one more
//! occurrence in the series of the Event that is there.

pub(crate) mod reasons;
pub(crate) mod warnings;

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::{
    api::{
        core::v1::ObjectReference,
        events::v1::{Event, EventSeries},
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use scaler_types::{ResourceEvent, Role, Severity};
use serde_json::json;
use tokio::time::Instant;

use crate::cluster;

/// The same thing is written on an object this often at most; what comes between is counted with the next.
const MIN_INTERVAL: Duration = Duration::from_secs(10);

/// So long an Event is remembered for its series: less than the hour for which the API server keeps one by default.
const SERIES_LIFETIME: Duration = Duration::from_secs(45 * 60);

/// How often it is looked which of them need not be remembered any more.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);

/// How many things are written in a second at most, of all objects together; more are in the log alone.
const MAX_RATE: f64 = 20.0;

/// How many may come at once before that counts.
const MAX_BURST: f64 = 100.0;

/// The longest note that Kubernetes takes.
const MAX_NOTE: usize = 1024;

/// The longest name that Kubernetes takes.
const MAX_NAME: usize = 253;

pub(crate) struct Events {
    client: Client,
    controller: &'static str,
    instance: String,
    written: Mutex<Written>,
}

/// An object's uid, and what was said of it: the reason and the message.
type EventKey = (String, String, String);

/// What was written, and how fast it comes.
struct Written {
    left: f64,
    at: Instant,
    pruned: Instant,
    key: HashMap<EventKey, Occurred>,
}

/// An Event that was written.
#[derive(Clone, Debug)]
struct Occurred {
    last: Instant,
    /// The Event's name; none: it has not been written yet.
    name: Option<String>,
    count: i32,
}

// === impl Events ===

impl Events {
    /// For this daemon.
    pub(crate) fn new(client: Client, role: Role) -> Self {
        let controller = role.field_manager();
        let instance = std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME")).ok();
        let instance = instance.filter(|name| !name.is_empty()).unwrap_or_else(|| controller.to_owned());
        Self { client, controller, instance, written: Mutex::new(Written::new(Instant::now())) }
    }

    /// Writes one on a workload, unless there are too many.
    ///
    /// # Errors
    ///
    /// The API server did not take it.
    pub(crate) async fn write(
        &self,
        workload: &ObjectReference,
        report: &ResourceEvent,
    ) -> Result<(), kube::Error> {
        let key = (workload.uid.clone().unwrap_or_default(), report.reason.clone(), report.message.clone());
        let Some(known) = self.written().admit(key.clone(), Instant::now()) else {
            tracing::debug!(resource = ?workload.name, report.reason, "skipped an Event: too many");
            return Ok(());
        };
        let api: Api<Event> =
            Api::namespaced(self.client.clone(), workload.namespace.as_deref().unwrap_or("default"));
        if let Some(name) = &known.name {
            let series = EventSeries { count: known.count, last_observed_time: MicroTime(Timestamp::now()) };
            let patch = Patch::Merge(json!({ "series": series }));
            match api.patch(name, &PatchParams::default(), &patch).await {
                // The API server keeps an Event for an hour or so.
                Err(error) if cluster::is_missing(&error) => {}
                done => return done.map(drop),
            }
        }
        let event = self.event(workload, report);
        let name = event.metadata.name.clone();
        api.create(&PostParams::default(), &event).await?;
        if let Some(known) = self.written().key.get_mut(&key) {
            (known.name, known.count) = (name, 1);
        }
        Ok(())
    }

    fn event(&self, workload: &ObjectReference, report: &ResourceEvent) -> Event {
        let now = Timestamp::now();
        let suffix = format!(".{:x}", now.as_nanosecond());
        let about = workload.name.as_deref().unwrap_or(self.controller);
        let about = about[..about.len().min(MAX_NAME - suffix.len())].trim_end_matches(['.', '-']);
        let type_ = match report.severity {
            Severity::Normal => "Normal",
            Severity::Warning => "Warning",
        };
        Event {
            metadata: ObjectMeta {
                namespace: workload.namespace.clone(),
                name: Some(format!("{about}{suffix}")),
                ..ObjectMeta::default()
            },
            action: Some("Scale".to_owned()),
            event_time: Some(MicroTime(now)),
            note: Some(shortened(&report.message, MAX_NOTE)),
            reason: Some(report.reason.clone()),
            regarding: Some(workload.clone()),
            reporting_controller: Some(self.controller.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            type_: Some(type_.to_owned()),
            ..Event::default()
        }
    }

    fn written(&self) -> std::sync::MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// At most this many bytes of it.
fn shortened(text: &str, longest: usize) -> String {
    if text.len() <= longest {
        return text.to_owned();
    }
    let mut end = longest - "…".len();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

// === impl Written ===

impl Written {
    fn new(now: Instant) -> Self {
        Self { left: MAX_BURST, at: now, pruned: now, key: HashMap::new() }
    }

    /// What is known of this, now that it has occurred once more; `None`: it is not to be written.
    fn admit(&mut self, key: EventKey, now: Instant) -> Option<Occurred> {
        self.left = (self.left + now.duration_since(self.at).as_secs_f64() * MAX_RATE).min(MAX_BURST);
        self.at = now;
        if now.duration_since(self.pruned) >= PRUNE_INTERVAL {
            self.key.retain(|_, known| now.duration_since(known.last) < SERIES_LIFETIME);
            self.pruned = now;
        }
        let lately = |known: &Occurred| now.duration_since(known.last) < MIN_INTERVAL;
        if let Some(known) = self.key.get_mut(&key).filter(|known| lately(known)) {
            known.count += 1;
            return None;
        }
        if self.left < 1.0 {
            return None;
        }
        self.left -= 1.0;
        let known = self.key.entry(key).or_insert(Occurred { last: now, name: None, count: 0 });
        (known.last, known.count) = (now, known.count + 1);
        Some(known.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn they_are_paced_and_the_same_is_not_said_twice_at_once() {
        let start = Instant::now();
        let mut written = Written::new(start);
        let key = |number: u32| ("uid".to_owned(), "WakeFailed".to_owned(), number.to_string());
        assert_eq!(written.admit(key(0), start).unwrap().count, 1);
        assert!(written.admit(key(0), start + MIN_INTERVAL / 2).is_none());
        assert_eq!(
            written.admit(key(0), start + MIN_INTERVAL).unwrap().count,
            3,
            "the one between is counted"
        );
        let later = start + MIN_INTERVAL * 100;
        assert_eq!(
            (1..1_000).filter(|n| written.admit(key(*n), later).is_some()).count(),
            MAX_BURST as usize
        );
        let second = later + Duration::from_secs(1);
        let more = (1_000..2_000).filter(|n| written.admit(key(*n), second).is_some()).count();
        assert_eq!(more, MAX_RATE as usize);
    }

    #[test]
    fn notes_fit() {
        assert_eq!(shortened("short", 1024), "short");
        let long = shortened(&"ä".repeat(1024), MAX_NOTE);
        assert!(long.len() <= MAX_NOTE && long.ends_with('…'), "{}", long.len());
    }
}
