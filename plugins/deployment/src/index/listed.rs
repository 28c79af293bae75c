//! Workloads as the daemons see them.

use std::time::Instant;

use k8s_openapi::jiff::Timestamp;
use scaler_types::{EventReason, Resource, ResourceId, TrafficMode};

use super::State;
use crate::objects::annotations;

/// A resource, and what is known of it beside.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ListedWorkload {
    pub(crate) resource: Resource,
    /// It is kept awake until then.
    pub(crate) keep_awake_until: Option<Timestamp>,
    /// Since when all that is new goes to the DLXs.
    pub(crate) intercepted_since: Option<Instant>,
    /// It is not intercepted for lack of ports.
    pub(crate) lacks_ports: bool,
    /// Its Services are to be intercepted.
    pub(crate) interception_wanted: bool,
    /// Warnings to be published on it.
    pub(crate) warnings: Vec<Warning>,
}

/// Works out how the daemons see a workload.
pub(crate) type Project = fn(&State, &ResourceId) -> Projection;

/// The resource derived from all known objects of a workload.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Projection {
    /// As the daemons see it; `None`: there is no such one, or it is not managed.
    pub(crate) listed: Option<ListedWorkload>,
    /// The warning on a workload that is not managed.
    pub(crate) not_managed: Option<Warning>,
}

// === impl ListedWorkload ===

impl ListedWorkload {
    /// The resource as of now: some of what keeps it awake ends by time alone, and the time since its interception grows.
    pub(crate) fn resource_at(&self, (now, clock): (Timestamp, Instant)) -> Resource {
        let mut resource = self.resource.clone();
        if let (Some(route), Some(since)) = (&mut resource.interception, self.intercepted_since) {
            route.intercepted_for = clock.saturating_duration_since(since);
        }
        if let Some(until) = self.keep_awake_until.filter(|until| *until > now) {
            let why = format!("kept awake until {until} ({})", annotations::KEEP_AWAKE);
            resource.keep_awake = joined(&[resource.keep_awake, why]);
        }
        resource
    }

    /// Why it is as it is.
    pub(crate) fn status(&self) -> &str {
        &self.resource.status
    }

    /// Whether its Services are to be intercepted.
    pub(crate) fn wants_interception(&self) -> bool {
        self.interception_wanted
    }

    /// Whether its Services are to be intercepted always, and can be.
    pub(crate) fn is_to_be_intercepted(&self) -> bool {
        let can = self
            .resource
            .interception
            .as_ref()
            .is_some_and(|route| route.requested && route.refusal.is_empty());
        can && self.resource.traffic_mode == TrafficMode::Always
    }

    /// Whether its Services are not intercepted for lack of ports: when some are freed, it is worked out again.
    pub(crate) fn lacks_ports(&self) -> bool {
        self.lacks_ports
    }
}

/// A warning to be published as an Event on a workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Warning {
    /// Of which kind.
    pub(crate) reason: EventReason,
    /// In a sentence.
    pub(crate) message: String,
}

/// Why nothing is managed in the daemons' own namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MissingPodLabel {
    pub(crate) home: String,
    /// For people: what to do.
    pub(crate) text: String,
}

/// The texts that say something, with semicolons between them.
pub(crate) fn joined(parts: &[String]) -> String {
    let said: Vec<_> = parts.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
    said.join("; ")
}
