//! One resource with a route: what is seen of it, what is to be done next, and what that waits for. Pure: the time is given.

use std::{sync::Arc, time::Duration};

use daemon::wakes::WakePlace;
use k8s_openapi::jiff::Timestamp;
use scaler_types::{
    Leads, Nonce, Path, Resource, RolloutPhase, Route, ScaleError, State,
    backoff::Backoff,
    duration::short,
    protocol::{self, Dlxs, RouteSeen, Seen},
};
use serde::Serialize;
use tokio::time::Instant;

use super::Progress;
use crate::{plugin, telemetry::rounded};

/// After a call that did not bring about what it was for.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), LONGEST);
const LONGEST: Duration = Duration::from_secs(60);
/// The same where something stands in the way that does not pass by itself.
const BACKOFF_TERMINAL: Backoff = Backoff::new(Duration::from_secs(30), Duration::from_secs(600));
/// After a wake: how long its replicas may take to be seen.
const WOKEN: Duration = Duration::from_secs(10);

/// How long a resource that is refused sleeps on before it is woken.
const STRANDED: Duration = Duration::from_secs(10);

/// What is known of one resource with a route.
#[derive(Debug)]
pub(super) struct Led {
    pub(super) path: Path,
    /// Row, version and whether it has replicas.
    pub(super) seen: Seen,
    pub(super) route: Route,
    /// When that was told.
    told: Instant,
    /// Since when it leads there, as far as this process saw.
    since: Instant,
    /// Since when its own endpoints have been ready while it leads to both.
    own_ready: Option<Instant>,
    /// The call under way.
    pub(super) calling: Option<Leads>,
    /// What came of the last calls for the step that is due.
    pause: Option<Pause<Leads>>,
    /// A wake is under way, for no request could do it.
    pub(super) waking: bool,
    /// When it was used last, as far as its plugin tells.
    pub(super) used: Option<Timestamp>,
    wake: Option<Pause<()>>,
    /// How long it may take to start, if it says so itself.
    pub(super) readiness: Option<Duration>,
    /// It takes requests, by what its plugin tells.
    up: bool,
    /// Its place among the wakes, from the write until it is up or has had its time.
    starting: Option<Starting>,
    /// Since when it sleeps and no request could wake it.
    stranded: Option<Instant>,
    /// It waits for a place to be written, or woken.
    pub(super) queued: [bool; 2],
    /// What its owners were told stands in the way.
    reported: Option<Arc<str>>,
}

/// No call before.
#[derive(Debug)]
struct Pause<T> {
    what: T,
    tries: u32,
    until: Instant,
    /// Why the last one failed; `None`: it was well, and what it is for is not seen yet.
    failed: Option<Arc<str>>,
    /// The first change that is seen ends it.
    conflict: bool,
}

/// A wake that counts as under way.
#[derive(Debug)]
struct Starting {
    _place: WakePlace,
    /// How long it may take once it is written.
    timeout: Duration,
    /// When its time is over; `None`: it is not written yet.
    until: Option<Instant>,
}

/// How the DLXs are, and how long everybody may take to follow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) now: Instant,
    pub(super) grace: Duration,
    pub(super) dlxs: Dlxs,
    /// There are DLXs to be named, or none that anybody waits for.
    pub(super) nameable: bool,
}

/// What is due.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Due {
    /// To lead there, now.
    pub(super) call: Option<Leads>,
    /// To wake it, now.
    pub(super) wake: bool,
    /// When to look again, if nothing changes before.
    pub(super) again: Option<Instant>,
}

/// Where it began to lead.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Moved {
    ToDlxs,
    Back,
}

/// A try that waits for the route of a resource.
#[derive(Debug)]
pub(super) struct Waiting {
    /// The nonce of the row before its fence, and that of its fence.
    pub(super) nonces: [Nonce; 2],
    /// Its fence was seen.
    pub(super) seen: bool,
}

/// A route as the admin port tells of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RouteTold {
    leads: Leads,
    /// Since when, as far as this process saw.
    since: String,
    asked: bool,
    refused: String,
    complete: bool,
    /// For how long every request has passed a DLX.
    led_for: String,
    dlxs: Vec<String>,
    /// Where it is to lead next.
    next: Option<Leads>,
    /// What that waits for, or what stands in the way.
    waits: Option<String>,
}

/// When a resource that sleeps was used last, as far as its plugin tells: it was put to sleep some time after that.
pub fn last_used(resource: &Resource) -> Option<Timestamp> {
    resource.last_scale_event_time.as_deref()?.parse().ok()
}

/// Whether a resource takes requests, as far as its plugin can tell.
pub fn is_up(resource: &Resource) -> bool {
    resource.replicas > 0
        && match (&resource.rollout, &resource.route) {
            (Some(rollout), _) => rollout.phase == RolloutPhase::Complete,
            (None, Some(route)) => route.own_ready,
            (None, None) => true,
        }
}

// === impl Led ===

impl Led {
    pub(super) fn new(now: Instant, resource: &Resource, route: &Route) -> Self {
        let mut led = Self {
            path: resource.path,
            seen: plugin::seen(resource),
            route: route.clone(),
            told: now,
            since: now,
            own_ready: None,
            calling: None,
            pause: None,
            waking: false,
            used: last_used(resource),
            wake: None,
            readiness: resource.resource_readiness_timeout,
            up: is_up(resource),
            starting: None,
            stranded: None,
            queued: [false; 2],
            reported: None,
        };
        led.count_own(now);
        led
    }

    /// It is told again.
    pub(super) fn saw(&mut self, now: Instant, resource: &Resource, route: &Route) -> Option<Moved> {
        let before = self.route.leads;
        self.path = resource.path;
        let seen = plugin::seen(resource);
        if seen.version != self.seen.version {
            // It may have been led elsewhere and back in between.
            self.own_ready = None;
        }
        self.seen = seen;
        self.route = route.clone();
        self.used = last_used(resource);
        (self.readiness, self.up) = (resource.resource_readiness_timeout, is_up(resource));
        self.told = now;
        self.count_own(now);
        if let Some(pause) = self.pause.as_mut().filter(|pause| pause.conflict) {
            pause.until = now;
        }
        if before == route.leads {
            return None;
        }
        self.since = now;
        match route.leads {
            Leads::Dlx => Some(Moved::ToDlxs),
            Leads::Own => Some(Moved::Back),
            Leads::Both => None,
        }
    }

    fn count_own(&mut self, now: Instant) {
        self.own_ready = match self.route.leads {
            Leads::Both if self.route.own_ready => self.own_ready.or(Some(now)),
            _ => None,
        };
    }

    /// For how long every new connection has gone to a DLX.
    fn led_for(&self, now: Instant) -> Duration {
        match self.route.leads {
            Leads::Dlx if self.route.complete => self.route.led_for + now.duration_since(self.told),
            _ => Duration::ZERO,
        }
    }

    fn asked(&self) -> bool {
        self.route.asked && self.route.refused.is_empty()
    }

    fn route_seen(&self, at: Now, confirmed: bool) -> RouteSeen {
        RouteSeen {
            path: self.path,
            asked: self.asked(),
            leads: self.route.leads,
            complete: self.route.complete,
            state: self.seen.row.state,
            scaled: self.seen.scaled,
            confirmed,
            own_known: self.own_ready.is_some_and(|since| at.now.duration_since(since) >= at.grace),
            own_ready: self.route.own_ready,
            dlxs: at.dlxs,
        }
    }

    /// Whether the fence in the row is that of the try that waits.
    fn confirmed(&self, waiting: Option<&Waiting>) -> bool {
        let row = &self.seen.row;
        waiting.is_some_and(|waiting| row.state == State::Draining && row.nonce == waiting.nonces[1])
    }

    /// Where it is to lead next.
    fn step(&self, at: Now, waiting: Option<&Waiting>) -> Option<Leads> {
        let to = protocol::route_step(&self.route_seen(at, self.confirmed(waiting)))?;
        // Who has just begun to lead does not know yet whom to name.
        (to == Leads::Own || at.nameable).then_some(to)
    }

    /// What is to be done now.
    pub(super) fn due(&mut self, at: Now, waiting: Option<&Waiting>) -> Due {
        let mut due = Due::default();
        self.stranded = self.is_stranded(at).then(|| self.stranded.unwrap_or(at.now));
        // Where it is refused for want of a Service that somebody is making anew, that has a moment to come.
        let since = self.stranded.map(|since| if at.dlxs == Dlxs::Dead { since } else { since + STRANDED });
        if let Some(since) = since.filter(|since| at.now < *since) {
            due.again = Some(since);
        } else if since.is_none() {
            self.wake = None;
        } else if !self.waking {
            due.again = self.wake.as_ref().map(|pause| pause.until).filter(|until| at.now < *until);
            due.wake = due.again.is_none();
        }
        if due.wake || !self.is_starting(at.now) {
            self.starting = None;
        }
        due.again = due.again.into_iter().chain(self.starting.as_ref().and_then(|one| one.until)).min();
        if self.calling.is_some() {
            return due;
        }
        let again = match self.step(at, waiting) {
            None => {
                (self.pause, self.reported) = (None, None);
                self.own_ready.map(|since| since + at.grace)
            }
            Some(to) => {
                let until = self.pause.as_ref().filter(|pause| pause.what == to).map(|pause| pause.until);
                let until = until.filter(|until| at.now < *until);
                due.call = until.is_none().then_some(to);
                until
            }
        };
        due.again = due.again.into_iter().chain(again.filter(|again| at.now < *again)).min();
        due
    }

    /// A call ended; what its owners are to be told, if so.
    pub(super) fn called(
        &mut self,
        now: Instant,
        to: Leads,
        result: &Result<(), ScaleError>,
    ) -> Option<Arc<str>> {
        self.calling = None;
        let before = self.pause.take().filter(|pause| pause.what == to);
        let pause = Pause::after(now, to, before.as_ref(), result);
        let told = match result {
            Err(ScaleError::Terminal { .. } | ScaleError::Unsupported) => pause.failed.clone(),
            _ => None,
        };
        self.pause = Some(pause);
        if told.is_none() || told == self.reported {
            return None;
        }
        self.reported.clone_from(&told);
        told
    }

    /// A wake begins.
    pub(super) fn wakes(&mut self, place: WakePlace, timeout: Duration) {
        self.waking = true;
        self.starting = Some(Starting { _place: place, timeout, until: None });
    }

    /// Its last wake failed.
    pub(super) fn failed_to_wake(&self) -> bool {
        let failed = self.wake.as_ref().is_some_and(|pause| pause.failed.is_some());
        failed || !self.seen.row.failed_wake.is_empty()
    }

    /// A wake was written, or could not be.
    pub(super) fn woken(&mut self, now: Instant, result: &Result<(), ScaleError>) {
        self.waking = false;
        match (result, &mut self.starting) {
            (Ok(()), Some(starting)) => starting.until = now.checked_add(starting.timeout),
            _ => self.starting = None,
        }
        let mut pause = Pause::after(now, (), self.wake.take().as_ref(), result);
        if result.is_ok() {
            pause.until = pause.until.max(now + WOKEN);
        }
        self.wake = Some(pause);
    }

    /// How far the route is for a try that waits for it, and when to look again.
    pub(super) fn progress(&self, at: Now, waiting: &mut Waiting) -> (Progress, Option<Instant>) {
        let mine = self.confirmed(Some(waiting));
        waiting.seen |= mine;
        if !mine && (waiting.seen || self.seen.row.nonce != waiting.nonces[0]) {
            return (Progress::Changed, None);
        }
        if !self.asked() {
            return (Progress::Lost("its route is not to be led any more".into()), None);
        }
        if !mine {
            return (Progress::Waiting, None);
        }
        let led_for = self.led_for(at.now);
        match self.route.leads {
            Leads::Dlx if self.route.complete && led_for >= at.grace => (Progress::Led, None),
            Leads::Dlx if self.route.complete => (Progress::Waiting, at.now.checked_add(at.grace - led_for)),
            _ => (Progress::Waiting, None),
        }
    }

    /// As the admin port tells of it.
    pub(super) fn told(&self, at: Now, waiting: Option<&Waiting>) -> RouteTold {
        let next = self.step(at, waiting);
        let to = self.calling.or(next);
        RouteTold {
            leads: self.route.leads,
            since: ago(at.now, self.since),
            asked: self.route.asked,
            refused: self.route.refused.clone(),
            complete: self.route.complete,
            led_for: short(rounded(self.led_for(at.now))),
            dlxs: self.route.dlxs.clone(),
            next: to.or_else(|| self.later()),
            waits: self.waits(at, next, waiting),
        }
    }

    /// Its wake is being written, or has time left and nothing took it back.
    fn is_starting(&self, now: Instant) -> bool {
        match self.starting.as_ref().and_then(|starting| starting.until) {
            None => self.waking,
            Some(until) if now >= until => false,
            Some(_) if self.seen.scaled => !self.up,
            // What was written is not seen yet.
            Some(_) => self.wake.is_some(),
        }
    }

    /// It sleeps, and no request would wake it: no DLX takes any, or its are refused and lead to none.
    fn is_stranded(&self, at: Now) -> bool {
        let refused = self.route.asked && !self.route.refused.is_empty() && self.route.leads == Leads::Own;
        let slept = matches!(self.seen.row.state, State::Asleep | State::Waking | State::Failed);
        !self.seen.scaled && (at.dlxs == Dlxs::Dead || refused && slept)
    }

    /// It is to be given back, and nobody has woken it yet.
    fn sleeps_on(&self) -> bool {
        !self.asked() && !self.seen.scaled && self.route.leads == Leads::Dlx
    }

    /// Where it is to lead when what that waits for has come.
    fn later(&self) -> Option<Leads> {
        match self.route.leads {
            Leads::Both => Some(Leads::Own),
            _ => self.sleeps_on().then_some(Leads::Both),
        }
    }

    /// What stands between now and the next step; reads on from "waits for".
    fn waits(&self, at: Now, next: Option<Leads>, waiting: Option<&Waiting>) -> Option<String> {
        if self.waking {
            let why =
                if at.dlxs == Dlxs::Dead { "no DLX takes requests" } else { "no request could wake it" };
            return Some(format!("its being woken: {why}"));
        }
        if self.calling.is_some() {
            return Some("its being written".to_owned());
        }
        if let Some(to) = next {
            return Some(match self.pause.as_ref().filter(|pause| pause.what == to) {
                None => "a place among those being written".to_owned(),
                Some(Pause { failed: None, .. }) => "what was written to be seen".to_owned(),
                Some(Pause { failed: Some(why), tries, until, .. }) => {
                    format!("another try in {}, after {tries} that failed: {why}", ago(*until, at.now))
                }
            });
        }
        let left = at.grace.saturating_sub(self.led_for(at.now));
        if waiting.is_some() && self.route.leads == Leads::Dlx && !left.is_zero() {
            return Some(format!("everybody to follow, {} to go", short(rounded(left))));
        }
        match (self.route.leads, self.own_ready) {
            _ if self.sleeps_on() => Some("it to be woken: nobody else could serve".to_owned()),
            (Leads::Both, None) => Some("its own endpoints to be ready".to_owned()),
            (Leads::Both, Some(since)) => {
                Some(format!("everybody to know its own endpoints, {} to go", ago(since + at.grace, at.now)))
            }
            (Leads::Own, _) if self.asked() && self.path == Path::Always && at.dlxs != Dlxs::Serving => {
                Some("a DLX that takes requests".to_owned())
            }
            _ => None,
        }
    }

    /// Why the last call failed, and for how often.
    pub(super) fn failure(&self) -> Option<(u32, &Arc<str>)> {
        self.pause.as_ref().and_then(|pause| Some((pause.tries, pause.failed.as_ref()?)))
    }
}

fn ago(now: Instant, then: Instant) -> String {
    short(rounded(now.saturating_duration_since(then)))
}

// === impl Pause ===

impl<T> Pause<T> {
    fn after(now: Instant, what: T, before: Option<&Self>, result: &Result<(), ScaleError>) -> Self {
        let tries = before.map_or(0, |before| before.tries).saturating_add(1);
        let pause = match result {
            Err(ScaleError::Terminal { .. } | ScaleError::Unsupported) => BACKOFF_TERMINAL.pause_after(tries),
            Err(ScaleError::Retry { after, .. }) => BACKOFF.pause_after(tries).max(*after).min(LONGEST),
            _ => BACKOFF.pause_after(tries),
        };
        let failed = result.as_ref().err().map(|error| match error {
            ScaleError::Retry { reason, .. } => reason.as_str().into(),
            error => error.to_string().into(),
        });
        Self { what, tries, until: now + pause, failed, conflict: *result == Err(ScaleError::Conflict) }
    }
}
