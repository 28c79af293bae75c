//! The calls a router makes, a bounded number at a time, and what comes of them.

use std::time::Duration;

use scaler_types::{
    Leads, Nonce, ResourceId, RouteRequest, ScaleError, ScaleRequest, Severity, Target,
    duration::short,
    protocol::{Step, transition},
};
use tokio::{
    task::{Id, JoinError},
    time::Instant,
};

use super::Router;
use crate::{cycle::Given, plugin::Plugin, router::led::Due};

/// The kinds of calls.
pub(super) const LEADS: usize = 0;
pub(super) const WAKES: usize = 1;
/// How many of each are under way at once. Writing a route is a handful of calls of an API server; waking is one, when no DLX is
/// left to do it.
const AT_ONCE: [usize; 2] = [16, 64];
/// How long writing one route may take, if the grace is longer: what is given up by then has landed, or never will, before anything
/// is decided on what came of it.
const WITHIN: Duration = Duration::from_secs(30);
/// Where the grace is shorter than any call takes.
const AT_LEAST: Duration = Duration::from_secs(1);

/// What a call is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    Lead(Leads),
    Wake,
}

pub(super) type Done = Result<(), ScaleError>;

impl<P: Plugin> Router<P> {
    /// Begins what waits, as far as there are places.
    pub(super) fn start(&mut self) {
        for kind in [LEADS, WAKES] {
            while self.under_way[kind] < AT_ONCE[kind] {
                let Some(id) = self.queues[kind].pop_front() else { break };
                self.begin(kind, id);
            }
        }
    }

    /// Begins a call, if it is still due.
    fn begin(&mut self, kind: usize, id: ResourceId) {
        let routes = self.routes.clone();
        let mut inner = routes.inner();
        let at = inner.now(Instant::now(), self.leading());
        let dlxs = inner.dlxs.named();
        let (Some(led), waiting) = inner.of(&id) else { return };
        led.queued[kind] = false;
        // How it is now, not how it was when it began to wait.
        let due = led.due(at, waiting);
        let Given { plugin, settings } = self.given.borrow().clone();
        let (task, what) = match (kind, due) {
            (LEADS, Due { call: Some(to), .. }) => {
                led.calling = Some(to);
                let dlxs = if to == Leads::Own { Vec::new() } else { dlxs };
                let deadline = WITHIN.min(self.leading().grace).max(AT_LEAST);
                let request = RouteRequest { id: id.clone(), to, dlxs, deadline };
                (self.running.spawn(async move { plugin.set_route(&request).await }), What::Lead(to))
            }
            (WAKES, Due { wake: true, .. }) => {
                let row = transition(&led.seen, Step::Wake, Nonce::fresh(), "no DLX takes requests");
                // Of a newer format: whoever wrote it knows what to do.
                let Some(row) = row else { return };
                led.waking = true;
                let request = ScaleRequest {
                    id: id.clone(),
                    target: Target::AtLeast(1),
                    version: led.seen.version.clone(),
                    row,
                    deadline: settings.resource_readiness_timeout,
                    led_for: Duration::ZERO,
                };
                (self.running.spawn(async move { plugin.set_scale(&request).await }), What::Wake)
            }
            _ => return,
        };
        self.under_way[kind] += 1;
        self.whose.insert(task.id(), (id, what));
    }

    pub(super) fn ended(&mut self, ended: Result<(Id, Done), JoinError>) {
        let (task, result) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                let reason = format!("the call ended early: {error}");
                (error.id(), Err(ScaleError::Retry { after: Duration::ZERO, reason }))
            }
        };
        let Some((id, what)) = self.whose.remove(&task) else { return };
        self.under_way[match what {
            What::Lead(_) => LEADS,
            What::Wake => WAKES,
        }] -= 1;
        let now = Instant::now();
        let routes = self.routes.clone();
        let mut inner = routes.inner();
        inner.dirty.insert(id.clone());
        let led = inner.led.get_mut(&id);
        match what {
            What::Lead(to) => {
                self.context.metrics.route_called(&self.labels, &result);
                let Some(led) = led else { return };
                let told = led.called(now, to, &result);
                let to = where_to(to);
                if let Some(why) = told {
                    tracing::warn!(resource = %id, reason = %why, "cannot lead its requests {to}");
                    let message = format!("Its requests cannot be led {to}: {why}");
                    self.reporter.report(&id, Severity::Warning, "RouteFailed", message);
                } else if let Some((tries, why)) = led.failure() {
                    tracing::debug!(resource = %id, reason = %why, tries, "its requests are not led {to} yet");
                }
            }
            What::Wake => {
                let dead_man = self.context.leading.dead_man;
                match &result {
                    Ok(()) => {
                        tracing::warn!(resource = %id, "woken: no DLX takes requests");
                        let message = format!("Woken: no DLX has taken requests for {}", short(dead_man));
                        self.reporter.report(&id, Severity::Warning, "DeadMan", message);
                    }
                    Err(ScaleError::Conflict) => {}
                    Err(error) => {
                        tracing::warn!(resource = %id, %error, "cannot wake it although no DLX takes requests; tried again");
                    }
                }
                if let Some(led) = led {
                    led.woken(now, &result);
                }
            }
        }
    }
}

fn where_to(to: Leads) -> &'static str {
    match to {
        Leads::Own => "to itself alone",
        Leads::Both => "to itself as well",
        Leads::Dlx => "to the DLXs",
    }
}
