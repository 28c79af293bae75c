//! What owners are told on their objects: Events.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use scaler_types::{Report, Role, Severity};
use tokio::time::Instant;

use crate::facts::Workload;

/// The same thing is written on an object this often at most; what comes between is counted with the next.
const AGAIN: Duration = Duration::from_secs(10);

/// How many things are written in a second at most, of all objects together; more are in the log alone.
const RATE: f64 = 20.0;

/// How many may come at once before that counts.
const BURST: f64 = 100.0;

/// The longest note that Kubernetes takes.
const LONGEST: usize = 1024;

/// What an object's owners are to be told about it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Complaint {
    /// In one word.
    pub reason: &'static str,
    /// In a sentence.
    pub message: String,
}

/// Writes Events.
pub struct Events {
    recorder: Recorder,
    pace: Mutex<Pace>,
}

/// How fast they come.
struct Pace {
    left: f64,
    at: Instant,
    last: HashMap<(String, String, String), Instant>,
}

// === impl Events ===

impl Events {
    /// For this daemon.
    pub fn new(client: Client, role: Role) -> Self {
        let controller = match role {
            Role::Autoscaler => "scaler-autoscaler",
            Role::Dlx => "scaler-dlx",
        };
        let instance = std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME")).ok();
        let reporter = Reporter { controller: controller.to_owned(), instance };
        let pace = Pace { left: BURST, at: Instant::now(), last: HashMap::new() };
        Self { recorder: Recorder::new(client, reporter), pace: Mutex::new(pace) }
    }

    /// Writes one on a workload, unless there are too many.
    ///
    /// # Errors
    ///
    /// The API server did not take it.
    pub async fn write(&self, workload: &ObjectReference, report: &Report) -> Result<(), kube::Error> {
        let key = (workload.uid.clone().unwrap_or_default(), report.reason.clone(), report.message.clone());
        if !self.pace.lock().unwrap_or_else(PoisonError::into_inner).admit(key, Instant::now()) {
            tracing::debug!(resource = ?workload.name, report.reason, "too many Events: this one is left out");
            return Ok(());
        }
        let type_ = match report.severity {
            Severity::Normal => EventType::Normal,
            Severity::Warning => EventType::Warning,
        };
        let event = Event {
            type_,
            reason: report.reason.clone(),
            note: Some(shortened(&report.message, LONGEST)),
            action: "Scale".to_owned(),
            secondary: None,
        };
        self.recorder.publish(&event, workload).await
    }
}

/// What an Event is about.
pub fn regarding(workload: &Workload) -> ObjectReference {
    let api = &workload.kind.api;
    ObjectReference {
        api_version: Some(api.api_version.clone()),
        kind: Some(api.kind.clone()),
        namespace: Some(workload.meta.namespace.to_string()),
        name: Some(workload.meta.name.to_string()),
        uid: Some(workload.meta.uid.clone()),
        ..ObjectReference::default()
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

// === impl Pace ===

impl Pace {
    fn admit(&mut self, key: (String, String, String), now: Instant) -> bool {
        self.left = (self.left + now.duration_since(self.at).as_secs_f64() * RATE).min(BURST);
        self.at = now;
        self.last.retain(|_, at| now.duration_since(*at) < AGAIN);
        if self.left < 1.0 || self.last.contains_key(&key) {
            return false;
        }
        self.left -= 1.0;
        self.last.insert(key, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn they_are_paced_and_the_same_is_not_said_twice_at_once() {
        let start = Instant::now();
        let mut pace = Pace { left: BURST, at: start, last: HashMap::new() };
        let key = |number: u32| ("uid".to_owned(), "WakeFailed".to_owned(), number.to_string());
        assert!(pace.admit(key(0), start));
        assert!(!pace.admit(key(0), start + AGAIN / 2));
        assert!(pace.admit(key(0), start + AGAIN));
        let later = start + AGAIN * 100;
        assert_eq!((1..1_000).filter(|number| pace.admit(key(*number), later)).count(), BURST as usize);
        let second = later + Duration::from_secs(1);
        assert_eq!((1_000..2_000).filter(|number| pace.admit(key(*number), second)).count(), RATE as usize);
    }

    #[test]
    fn notes_fit() {
        assert_eq!(shortened("short", 1024), "short");
        let long = shortened(&"ä".repeat(1024), LONGEST);
        assert!(long.len() <= LONGEST && long.ends_with('…'), "{}", long.len());
    }
}
