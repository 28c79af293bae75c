//! What one cycle knows and remembers of its resources. No input or output: it is told what was seen, and says what
//! is to be done.

mod wakes;

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use daemon::settings::Settings;
use scaler_types::{
    Nonce, Path, Resource, ResourceId, RolloutPhase, Row, ScaleEvent, ScaleResource, State, Version,
    backoff::Backoff,
    duration::short,
    protocol::{self, Gap, Reports, WakeSeen},
};
use tokio::time::Instant;

use crate::{
    decide::{Decision, Evidence, Failure, Past, SeenRollout, decide},
    drain::End,
    interception::RouteFacts,
    observe::{Activity, Measure, Reading, Sample, Source, Unknown, metrics},
    plugin::seen,
};

pub use wakes::Frequent;
use wakes::Wakes;

/// The longest pause between two tries of a scale that fails.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// What is known of the resources of one plugin in one namespace file, as of the last cycle.
#[derive(Debug, Default)]
pub struct Memory {
    /// By identity.
    pub resources: HashMap<ResourceId, Known>,
    /// How the cycles go.
    pub cycles: Cycles,
    reports: Reports<Instant>,
    /// How many of those who registered it has taken note of, and how often that could not be told.
    registered: (usize, u64),
    /// Wanted asleep by a person, for the next decision.
    asked: Option<ResourceId>,
}

/// How the cycles go.
#[derive(Clone, Debug, Default)]
pub struct Cycles {
    /// How many there were.
    pub count: u64,
    /// When the last one began.
    pub last: Option<Instant>,
    /// How long it took.
    pub took: Duration,
    /// Why it could not tell all resources, if so.
    pub error: Option<String>,
}

/// What is known of one resource.
#[derive(Debug)]
pub struct Known {
    /// As the plugin told it.
    pub resource: Resource,
    /// As the DLXs told it.
    pub samples: Vec<Sample>,
    /// As another metric source told it, in the order of its metrics; none where the DLXs are the source.
    pub readings: Option<Vec<Reading>>,
    /// The metrics it is decided by.
    pub metrics: Vec<ScaleResource>,
    /// What was decided.
    pub decision: Decision,
    /// Since when it is decided so, for this reason.
    pub since: Instant,
    /// A try of this process is under way.
    pub under_way: bool,
    /// How the last one ended, and when.
    pub last_try: Option<(End, Instant)>,
    /// Tries that failed, one after another.
    pub failure: Option<Failure>,
    /// Tries that did not put it to zero so far, by outcome and reason.
    pub failed_drains: BTreeMap<(&'static str, &'static str), u64>,
    /// The last thing that happened to its scale, and when this process first saw it.
    pub event: Option<(ScaleEvent, Instant)>,
    /// Since when the plugin has listed it, as this process saw it.
    listed: Instant,
    /// What its owners were told stands in the way; `None`: nothing does.
    pub told: Option<String>,
    /// The wake under way, and when this process first saw it.
    waking: Option<(Nonce, Instant)>,
    /// How often it was woken.
    pub wakes: Wakes,
    /// The rollout of what it runs now.
    rollout: Option<SeenRollout>,
    cycle: u64,
}

/// What was told of one resource.
struct Told<'a> {
    samples: Vec<Sample>,
    readings: Option<Vec<Reading>>,
    source: &'a Source,
    routes: RouteFacts,
}

/// What is to be done after a cycle.
#[derive(Debug, Default)]
pub struct Work {
    /// Rows left behind.
    pub mend: Vec<Mend>,
    /// Resources to put to zero.
    pub idle: Vec<ResourceId>,
    /// Resources that cannot go to zero as things are, and why; each once, until it changes.
    pub refused: Vec<(ResourceId, String)>,
    /// Resources that are woken too often, whose users are to be told now.
    pub frequent: Vec<(ResourceId, Frequent)>,
    /// How many resources were decided on how.
    pub decisions: BTreeMap<(&'static str, &'static str), u64>,
}

/// A row left behind, and what is to be written over it.
#[derive(Clone, Debug)]
pub struct Mend {
    /// Whose.
    pub id: ResourceId,
    /// The version that must still stand.
    pub expected: Version,
    /// The row to write.
    pub row: Row,
    /// Somebody scaled it up while it slept.
    pub by_hand: bool,
}

// === impl Memory ===

impl Memory {
    /// A cycle saw `listed` and `activity`.
    pub fn observe(
        &mut self,
        now: Instant,
        listed: Vec<Resource>,
        activity: Activity,
        routes: RouteFacts,
        settings: &Settings,
    ) -> Work {
        self.cycles.count += 1;
        let Activity { source, samples, readings } = activity;
        // Beside another source what a DLX had counted decides nothing.
        if readings.is_none() {
            self.members(now, &source);
        }
        let mut work = Work::default();
        let mut readings = readings.map(Vec::into_iter);
        for (resource, samples) in listed.into_iter().zip(samples) {
            let readings = readings.as_mut().map(|readings| readings.next().unwrap_or_default());
            let told = Told { samples, readings, source: &source, routes };
            self.one(now, resource, told, settings, &mut work);
        }
        let cycle = self.cycles.count;
        self.resources.retain(|_, known| known.cycle == cycle);
        work
    }

    /// A person wants this one asleep: its windows, thresholds, events and failures do not count in the next decision.
    pub fn ask(&mut self, id: Option<ResourceId>) {
        self.asked = id;
    }

    /// The members were read: what one that is gone had counted is known by its last report, or not at all.
    fn members(&mut self, now: Instant, source: &Source) {
        if matches!(source.unknown, Some(Unknown::Failed(_))) {
            return;
        }
        let (noted, lost) = self.registered;
        let Source { members, reported, registered, .. } = source;
        if registered.unknown && self.reports.complete_since().is_none() {
            // It follows them, as a new leader, from later on.
            return;
        }
        let seen = registered.names.iter().skip(noted).cloned();
        let before = self.reports.complete_since().map(|(since, _)| since);
        self.reports.read(now, members.iter().cloned().collect(), seen, |gone| {
            reported.iter().any(|reported| **reported == *gone)
        });
        if registered.unknown || registered.lost > lost {
            self.reports.unseen(now);
        }
        self.registered = (registered.names.len(), registered.lost);
        if let Some((since, Gap::Left(member))) = self.reports.complete_since()
            && before != Some(since)
        {
            tracing::info!(%member, "a DLX left without a last report: nothing sleeps for a window");
        }
    }

    /// Tests that are not about it know all that the DLXs did for a day.
    #[cfg(test)]
    pub fn of_a_long_lead(now: Instant) -> Self {
        let mut memory = Self::default();
        memory.reports.read(now - Duration::from_secs(86_400), Default::default(), [], |_| true);
        memory
    }

    fn one(
        &mut self,
        now: Instant,
        resource: Resource,
        told: Told<'_>,
        settings: &Settings,
        work: &mut Work,
    ) {
        let cycle = self.cycles.count;
        let known = match self.resources.get_mut(&resource.id) {
            Some(known) if known.cycle == cycle => {
                tracing::warn!(resource = %resource.id, "the plugin lists it twice: the first one counts");
                return;
            }
            Some(known) => {
                known.saw(now, resource);
                known
            }
            None => self.resources.entry(resource.id.clone()).or_insert(Known::new(now, resource)),
        };
        known.cycle = cycle;
        (known.samples, known.readings) = (told.samples, told.readings);
        let asked = self.asked.as_ref() == Some(&known.resource.id);
        known.resource.sleep_now |= asked;
        let failure = known.failure.clone().filter(|_| !asked);
        let gap =
            self.reports.complete_since().map_or((now, Gap::NewLeader), |(since, gap)| (since, gap.clone()));
        let past = Past {
            event: known.event,
            gap: Some(gap),
            listed: Some(known.listed),
            failure,
            woken: known.wakes.woken(),
            rollout: known.rollout.clone(),
        };
        let metrics = metrics(&known.resource, settings);
        if known.metrics != metrics {
            known.metrics = metrics.to_vec();
        }
        let measure = known.readings.as_deref().map_or(Measure::Samples, Measure::Readings);
        let Told { source, routes, .. } = told;
        let evidence = Evidence { source, samples: &known.samples, measure, routes };
        known.decided(now, decide(now, &known.resource, metrics, evidence, &past));
        let refused = known.decision.refusal();
        if refused != known.told {
            work.refused
                .extend(refused.clone().map(|_| (known.resource.id.clone(), known.decision.to_string())));
            known.told = refused;
        }
        if let Some(frequent) = known.wakes.tell(now) {
            work.frequent.push((known.resource.id.clone(), frequent));
        }
        *work.decisions.entry((known.decision.name(), known.decision.code())).or_default() += 1;
        if known.under_way {
            return;
        }
        if let Some(row) = known.left_behind(now, settings.resource_readiness_timeout) {
            let (id, expected) = (known.resource.id.clone(), known.resource.version.clone());
            let by_hand = known.resource.row.state == State::Asleep && known.resource.replicas > 0;
            work.mend.push(Mend { id, expected, row, by_hand });
        } else if let Decision::ToZero(_) = known.decision {
            work.idle.push(known.resource.id.clone());
        }
    }

    /// A try begins; `None` where there is none to begin: the resource is gone, or another decision was made since.
    pub fn begin(&mut self, id: &ResourceId) -> Option<(Resource, String)> {
        let known = self.resources.get_mut(id).filter(|known| !known.under_way)?;
        let Decision::ToZero(idle) = &known.decision else { return None };
        known.under_way = true;
        Some((known.resource.clone(), idle.to_string()))
    }

    /// A try ended; tells what is known of its failures.
    pub fn ended(
        &mut self,
        id: &ResourceId,
        now: Instant,
        end: &End,
        interval: Duration,
    ) -> Option<&Failure> {
        let known = self.resources.get_mut(id)?;
        known.under_way = false;
        known.last_try = Some((end.clone(), now));
        if *end != End::Committed {
            *known.failed_drains.entry((end.name(), end.code())).or_default() += 1;
        }
        match end {
            End::Committed => {
                known.failure = None;
                let idle = known.idle();
                known.wakes.slept(now, idle);
            }
            // Tells nothing about whether a scale would work now.
            End::Reverted(_) => {}
            End::Failed(reason) => {
                let tries = known.failure.as_ref().map_or(0, |failure| failure.tries).saturating_add(1);
                known.failure =
                    Some(Failure { tries, reason: reason.clone(), until: now + pause(interval, tries) });
            }
        }
        known.failure.as_ref()
    }

    /// A row is being mended, or that is over.
    pub fn mending(&mut self, id: &ResourceId, under_way: bool) {
        if let Some(known) = self.resources.get_mut(id) {
            known.under_way = under_way;
        }
    }
}

/// One interval, then two, four, and so on.
fn pause(interval: Duration, tries: u32) -> Duration {
    Backoff::new(interval, LONGEST_PAUSE).pause_after(tries)
}

// === impl Known ===

impl Known {
    fn new(now: Instant, resource: Resource) -> Self {
        let mut wakes = Wakes::default();
        wakes.follow(now, &resource, Duration::ZERO);
        Self {
            wakes,
            event: resource.last_scale_event.map(|event| (event, now)),
            listed: now,
            told: None,
            waking: waking(&resource).map(|nonce| (nonce, now)),
            rollout: SeenRollout::follow(None, now, &resource, false),
            resource,
            samples: Vec::new(),
            readings: None,
            metrics: Vec::new(),
            decision: Decision::Keep(crate::decide::Reason::NoMetrics),
            since: now,
            under_way: false,
            last_try: None,
            failure: None,
            failed_drains: BTreeMap::new(),
            cycle: 0,
        }
    }

    /// The plugin tells the resource again.
    fn saw(&mut self, now: Instant, resource: Resource) {
        let event = |resource: &Resource| (resource.last_scale_event, resource.last_scale_event_time.clone());
        if event(&self.resource) != event(&resource) {
            self.event = resource.last_scale_event.map(|event| (event, now)).or(self.event);
        }
        // Also where the plugin tells no events.
        if !awake(&self.resource) && awake(&resource) {
            self.event = Some((ScaleEvent::ScaleFromZeroCompleted, now));
        }
        let before = self.waking;
        self.waking = waking(&resource).map(|nonce| match before {
            Some((since_nonce, since)) if since_nonce == nonce => (nonce, since),
            _ => (nonce, now),
        });
        let woken = self.waking.is_some() && self.waking != before;
        self.rollout = SeenRollout::follow(self.rollout.take(), now, &resource, woken);
        if resource.row.state == State::Asleep && resource.replicas == 0 {
            // Whatever failed on the way: it is reached.
            self.failure = None;
        }
        let idle = self.idle();
        self.wakes.follow(now, &resource, idle);
        self.resource = resource;
    }

    /// For how long it had been idle when it was seen last.
    fn idle(&self) -> Duration {
        let told = self.samples.iter().filter_map(Sample::idle_for).min();
        told.or_else(|| self.metrics.iter().map(|metric| metric.window_size).max()).unwrap_or_default()
    }

    fn decided(&mut self, now: Instant, decision: Decision) {
        if (self.decision.name(), self.decision.code()) != (decision.name(), decision.code()) {
            self.since = now;
            tracing::debug!(resource = %self.resource.id, decision = decision.name(), reason = %decision, "decided");
        }
        self.decision = decision;
    }

    /// The row to write where nobody works on this one any more.
    fn left_behind(&self, now: Instant, readiness_timeout: Duration) -> Option<Row> {
        if self.resource.path == Path::External {
            return None;
        }
        let timeout = self.resource.wake_timeout(readiness_timeout);
        // This process saw it later than it began, so a wake that is waited for has ended by then.
        let late = self.waking.is_some_and(|(_, since)| now.duration_since(since) > timeout);
        let rollout = self.resource.rollout.as_ref().filter(|_| late);
        let why = rollout.map(|rollout| format!("not ready within {}: {}", short(timeout), rollout.status));
        let wake = match rollout.map(|rollout| rollout.phase) {
            _ if !late => WakeSeen::InTime,
            Some(RolloutPhase::Complete) => WakeSeen::Ready,
            Some(RolloutPhase::Progressing | RolloutPhase::Overdue) => {
                WakeSeen::NotReady(why.as_deref().unwrap_or_default())
            }
            None => WakeSeen::Unknown,
        };
        let recovered = protocol::recover(&seen(&self.resource), self.under_way, wake, Nonce::fresh());
        // Every write of the row repairs, and putting it to zero is one: that is not kept up by what cannot be repaired.
        let repairs = self.resource.needs_repair && !matches!(self.decision, Decision::ToZero(_));
        let mut row = recovered.or_else(|| repairs.then(|| self.resource.row.clone()))?;
        // Its own try, if the last one failed: who reads the row is told why.
        if let (State::Draining, Some((End::Failed(reason), _))) = (self.resource.row.state, &self.last_try) {
            row.reason = format!("going to zero failed: {reason}");
        }
        Some(row)
    }
}

fn awake(resource: &Resource) -> bool {
    matches!(resource.row.state, State::Active | State::Draining) && resource.replicas > 0
}

fn waking(resource: &Resource) -> Option<Nonce> {
    (resource.row.state == State::Waking).then_some(resource.row.nonce)
}

#[cfg(test)]
mod tests;
