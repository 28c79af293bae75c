//! The calls a router makes, a bounded number at a time, and what comes of them.

use std::{cmp::Reverse, time::Duration};

use daemon::wakes::{WAKE_PLACE_TIMEOUT, Waits, WakePlace, jitter};

use scaler_types::{
    Leads, Nonce, ResourceId, RouteRequest, ScaleError, ScaleRequest, Severity, Target,
    duration::short,
    protocol::{Dlxs, Step, transition},
};
use tokio::{
    task::{Id, JoinError},
    time::Instant,
};

use super::Router;
use crate::{
    interception::resource::Due,
    plugin::{Given, Plugin},
};

/// The kinds of calls.
pub(super) const LEADS: usize = 0;
pub(super) const WAKES: usize = 1;
/// How many routes are written at once: each is a handful of calls of an API server.
const LEADS_AT_ONCE: usize = 16;
/// How many wakes wait for their place at once.
const ASKING: usize = 64;
/// How long writing one route may take, if the grace is longer: what is given up by then has landed, or never will, before anything
/// is decided on what came of it.
const WITHIN: Duration = Duration::from_secs(30);
/// Where the grace is shorter than any call takes.
const AT_LEAST: Duration = Duration::from_secs(1);

/// What a call is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    Lead(Leads),
    /// A place for a wake; for whom is decided when it is there.
    Place,
    Wake,
}

/// What a task has done.
#[derive(Debug)]
pub(super) enum Done {
    Called(Result<(), ScaleError>),
    Placed(WakePlace),
}

impl<P: Plugin> Router<P> {
    /// Begins what waits, as far as there are places.
    pub(super) fn start(&mut self) {
        while self.leading_now < LEADS_AT_ONCE {
            let Some(id) = self.queues[LEADS].pop_front() else { break };
            self.begin(LEADS, id, None);
        }
        while self.asking < self.queues[WAKES].len().min(ASKING) {
            let limit = self.given.borrow().settings.max_concurrent_wakes;
            let (wakes, namespace) = (self.context.wakes.clone(), self.labels.namespace.clone());
            let place = async move {
                let place = wakes.place(&namespace, limit, Waits::Nobody).await;
                jitter().await;
                Done::Placed(place)
            };
            let task = self.running.spawn(place);
            self.whose.insert(task.id(), (None, What::Place));
            self.asking += 1;
        }
    }

    /// There is a place: of those that wait, the one that was used last is woken; those whose last wake failed come last.
    fn wake_next(&mut self, place: WakePlace) {
        let mut place = Some(place);
        while place.is_some() {
            let last = {
                let inner = self.routes.inner();
                let first = |id: &ResourceId| inner.led.get(id).map(|led| (!led.failed_to_wake(), led.used));
                let waiting = self.queues[WAKES].iter().enumerate();
                // Of those that are alike the one that has waited longest.
                waiting.max_by_key(|(at, id)| (first(id), Reverse(*at))).map(|(at, _)| at)
            };
            let Some(id) = last.and_then(|last| self.queues[WAKES].remove(last)) else { return };
            place = self.begin(WAKES, id, place);
        }
    }

    /// Begins a call, if it is still due; gives the place for a wake back if not.
    fn begin(&mut self, kind: usize, id: ResourceId, place: Option<WakePlace>) -> Option<WakePlace> {
        let routes = self.routes.clone();
        let mut inner = routes.inner();
        let at = inner.now(Instant::now(), self.leading());
        let dlxs = inner.dlxs.named();
        let (Some(led), waiting) = inner.of(&id) else { return place };
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
                let call = async move { Done::Called(plugin.set_route(&request).await) };
                self.leading_now += 1;
                (self.running.spawn(call), What::Lead(to))
            }
            (WAKES, Due { wake: true, .. }) => {
                let why =
                    if at.dlxs == Dlxs::Dead { "no DLX takes requests" } else { "no request could wake it" };
                let row = transition(&led.seen, Step::Wake, Nonce::fresh(), why);
                // Of a newer format: whoever wrote it knows what to do.
                let Some(row) = row else { return place };
                let timeout = led.readiness.unwrap_or(settings.resource_readiness_timeout);
                led.wakes(place?, timeout.min(WAKE_PLACE_TIMEOUT));
                let request = ScaleRequest {
                    id: id.clone(),
                    target: Target::AtLeast(1),
                    version: led.seen.version.clone(),
                    row,
                    deadline: timeout,
                    led_for: Duration::ZERO,
                };
                let call = async move { Done::Called(plugin.set_scale(&request).await) };
                (self.running.spawn(call), What::Wake)
            }
            _ => return place,
        };
        self.whose.insert(task.id(), (Some(id), what));
        None
    }

    pub(super) fn ended(&mut self, ended: Result<(Id, Done), JoinError>) {
        let (task, done) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                let reason = format!("the call ended early: {error}");
                (error.id(), Done::Called(Err(ScaleError::Retry { after: Duration::ZERO, reason })))
            }
        };
        let Some((id, what)) = self.whose.remove(&task) else { return };
        match what {
            What::Lead(_) => self.leading_now -= 1,
            What::Place => self.asking -= 1,
            What::Wake => {}
        }
        let (id, result) = match (id, done) {
            (Some(id), Done::Called(result)) => (id, result),
            (_, Done::Placed(place)) => return self.wake_next(place),
            (None, Done::Called(_)) => return,
        };
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
            What::Place => {}
            What::Wake => {
                let dead_man = self.context.leading.dead_man;
                let refused = led.as_ref().map(|led| led.route.refused.clone()).filter(|why| !why.is_empty());
                match &result {
                    Ok(()) if self.dlxs != Dlxs::Dead => {
                        let why = refused.unwrap_or_default();
                        tracing::warn!(resource = %id, reason = why, "woken: no request could wake it");
                        let message = format!("Woken, for no request could do it: {why}");
                        self.reporter.report(&id, Severity::Warning, "Woken", message);
                    }
                    Ok(()) => {
                        tracing::warn!(resource = %id, "woken: no DLX takes requests");
                        let message = format!("Woken: no DLX has taken requests for {}", short(dead_man));
                        self.reporter.report(&id, Severity::Warning, "DeadMan", message);
                    }
                    Err(ScaleError::Conflict) => {}
                    Err(error) => {
                        tracing::warn!(resource = %id, %error, "cannot wake it, and no request could either; tried again");
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
