//! One attempt to scale one resource to zero: drives [`protocol::Drain`](Drain) with real calls.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use daemon::members::Member;
use plugin_host::RunningPlugin;
use scaler_types::{
    Nonce, Phase, Record, Resource, ScaleError, ScaleRequest, Scaling, Target, TrafficMode, Version,
    protocol::{Drain, DrainInput, DrainOrder, Outcome, Rules, Step, Unwritten, transition},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    decide::{Evidence, check_still_idle},
    interception::{Switchover, SwitchoverError},
    observe::{
        Measurements,
        members::{DrainAnswer, Members},
        work::{Work, WorkNotIdle},
    },
    plugin::protocol_seen,
    scaling::ScalingTable,
};

/// A drain attempt, and what it needs.
pub(crate) struct DrainAttempt {
    /// The resource's plugin.
    pub(crate) plugin: Arc<dyn RunningPlugin>,
    /// The DLXs that must confirm.
    pub(crate) members: Members,
    /// The protocol's rules.
    pub(crate) rules: Rules,
    /// How long the scale to zero may take.
    pub(crate) deadline: Duration,
    /// Switches the Service of a resource that is intercepted only while asleep.
    pub(crate) switchover: Switchover,
    /// What its queues and metrics say meanwhile.
    pub(crate) scaling: ScalingTable,
    /// Cancelled when the process stops: an attempt that is not committed by then is reverted.
    pub(crate) stop: CancellationToken,
}

/// How a drain attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DrainOutcome {
    /// The resource is at zero.
    Committed,
    /// It is as it was, or as another writer changed it.
    Reverted(RevertReason),
    /// A call failed, its effect is unknown. The next cycle resumes from the record.
    Failed(Arc<str>),
}

/// Why an attempt was reverted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RevertReason {
    /// A DLX did not confirm.
    Refused(String),
    /// A DLX gave no usable answer.
    Unreachable(String),
    /// There is no DLX, or the DLXs cannot be read.
    NoDlx(String),
    /// Its record changed meanwhile: a request arrived, most likely.
    Changed,
    /// The process is to end.
    Stopping,
    /// Its Service could not be switched, and why.
    NotIntercepted(Arc<str>),
    /// It was no longer idle, by its queues or after its Service was switched, and why.
    NotIdle(String),
}

// === impl DrainAttempt ===

impl DrainAttempt {
    /// Puts `resource` to zero as it was seen, or leaves it as it is. `reason`: why it is idle, written on the record.
    pub(crate) async fn run(&self, resource: &Resource, reason: &str) -> DrainOutcome {
        if resource.traffic_mode == TrafficMode::External {
            return self.scale_without_drain(resource, reason).await;
        }
        let fresh = Nonce::fresh();
        let Some((mut drain, mut order)) = Drain::begin(self.rules, protocol_seen(resource), fresh, reason)
        else {
            return DrainOutcome::Reverted(RevertReason::Changed);
        };
        if resource.traffic_mode == TrafficMode::WhenAsleep {
            drain = drain.switching();
        }
        if resource.takes_no_requests() {
            drain = drain.without_requests();
        }
        let mut live = BTreeMap::new();
        let mut questions: JoinSet<(String, DrainAnswer)> = JoinSet::new();
        let mut why = RevertReason::Changed;
        let (mut failure, mut busy) = (None, false);
        let outcome = loop {
            let input = match order {
                DrainOrder::Write { expected, mut record } => {
                    // A revert: the record says why.
                    if record.phase == Phase::Active {
                        record.reason = match &failure {
                            Some(failure) => format!("kept awake: {failure}"),
                            None => format!("kept awake: {}", DrainOutcome::Reverted(why.clone())),
                        };
                    }
                    let written = self.plugin.compare_and_set(&resource.id, &expected, &record).await;
                    DrainInput::Wrote(written.map_err(|error| classify_error(error, "record", &mut failure)))
                }
                DrainOrder::ReadMembers => {
                    match self.read_members(&mut why).await.filter(|_| self.may_go_on(resource, &mut why)) {
                        Some(read) => {
                            live = read;
                            let members = live.keys().cloned().collect();
                            DrainInput::Members { members, fresh: Nonce::fresh() }
                        }
                        None => DrainInput::Refused { fresh: Nonce::fresh() },
                    }
                }
                DrainOrder::Ask { members, nonce } => {
                    for member in members.iter().filter_map(|name| live.get(name)).cloned() {
                        let (dlxs, kind, id) =
                            (self.members.clone(), self.plugin.kind().to_owned(), resource.id.clone());
                        questions.spawn(async move {
                            let answer = dlxs.confirm(&member, &kind, &id, nonce).await;
                            (member.name, answer)
                        });
                    }
                    self.next_answer(&mut questions, &mut why).await
                }
                DrainOrder::Nothing => self.next_answer(&mut questions, &mut why).await,
                DrainOrder::Switch => {
                    let verify_idle = self.verify_idle(resource, fresh).await;
                    let mut idle = verify_idle.is_ok();
                    if let Err(reason) = verify_idle {
                        why = reason;
                    }
                    idle = idle && self.may_go_on(resource, &mut why);
                    DrainInput::Switched { idle, fresh: Nonce::fresh() }
                }
                DrainOrder::Commit { expected, record } => {
                    let result = match self.commit_version(resource, expected).await {
                        Ok(version) => {
                            let scaled =
                                self.plugin.set_scale(&self.scale_request(resource, version, record)).await;
                            scaled.map_err(|error| match error {
                                ScaleError::Busy { reason, .. } => {
                                    (why, busy) = (RevertReason::NotIdle(reason), true);
                                    Unwritten::Unknown
                                }
                                error => classify_error(error, "scale", &mut failure),
                            })
                        }
                        Err(error) => Err(classify_error(error, "scale", &mut failure)),
                    };
                    DrainInput::Scaled { result, fresh: Nonce::fresh() }
                }
                DrainOrder::End(outcome) => break outcome,
            };
            order = drain.step(input);
        };
        match (outcome, failure) {
            (Outcome::Asleep, _) => DrainOutcome::Committed,
            (Outcome::Reverted, None) => DrainOutcome::Reverted(why),
            // The plugin says that nothing was written.
            (Outcome::Unknown, None) if busy => DrainOutcome::Reverted(why),
            // Also a revert that could not be written: the next cycle finds the draining record and reverts it.
            (Outcome::Reverted | Outcome::Unknown, failure) => {
                DrainOutcome::Failed(failure.unwrap_or_else(|| {
                    "it is unknown whether the last write to its record took effect; the next cycle checks"
                        .into()
                }))
            }
        }
    }

    /// Waits until `resource` has been intercepted for the propagation delay, and verifies that it is idle. `attempt_nonce`: the
    /// nonce of the attempt that every DLX has confirmed.
    async fn verify_idle(&self, resource: &Resource, attempt_nonce: Nonce) -> Result<(), RevertReason> {
        let Self { plugin, members, switchover, stop, .. } = self;
        let (metrics, activity) = switchover
            .sample_once_intercepted(plugin.kind(), members, resource, attempt_nonce, stop)
            .await
            .map_err(RevertReason::from)?;
        let nothing = (Vec::new(), Vec::new());
        let samples = activity.samples.first().unwrap_or(&nothing.0);
        let measure = Measurements::Readings(activity.readings.iter().flatten().next().unwrap_or(&nothing.1));
        let evidence = Evidence {
            source: &activity.source,
            samples,
            measure,
            conditions: switchover.dlxs.conditions(),
            work: None,
        };
        check_still_idle(&metrics, evidence).map_err(|reason| RevertReason::NotIdle(reason.to_string()))
    }

    /// Whether the attempt may go on: this process does not stop, and the resource's queues and metrics, if it has any, still say that
    /// there is nothing to do. The commit may be next: where there is no DLX to ask, nothing else comes before it.
    fn may_go_on(&self, resource: &Resource, why: &mut RevertReason) -> bool {
        if self.stop.is_cancelled() {
            *why = RevertReason::Stopping;
            return false;
        }
        let reason = match self.scaling.work_of(&resource.id, &self.switchover.settings) {
            Some(Work::IdleFor(_)) => return true,
            None if !resource.scaling.as_ref().is_some_and(Scaling::has_work) => return true,
            Some(Work::NotIdle(reason)) => reason,
            // A scaler that has ended has forgotten them.
            None => WorkNotIdle::NotRead,
        };
        *why = RevertReason::NotIdle(reason.to_string());
        false
    }

    /// Scales a resource to zero whose traffic another controller switches: no DLX sees its requests, and what
    /// is promised is that controller's.
    async fn scale_without_drain(&self, resource: &Resource, reason: &str) -> DrainOutcome {
        let mut seen = protocol_seen(resource);
        let record = [Step::Drain, Step::Commit].into_iter().try_fold(seen.record.clone(), |_, step| {
            seen.record = transition(&seen, step, Nonce::fresh(), reason)?;
            Some(seen.record.clone())
        });
        let Some(record) = record else { return DrainOutcome::Reverted(RevertReason::Changed) };
        let mut why = RevertReason::Changed;
        if !self.may_go_on(resource, &mut why) {
            return DrainOutcome::Reverted(why);
        }
        match self.plugin.set_scale(&self.scale_request(resource, resource.version.clone(), record)).await {
            Ok(()) => DrainOutcome::Committed,
            Err(ScaleError::Conflict) => DrainOutcome::Reverted(RevertReason::Changed),
            Err(ScaleError::Busy { reason, .. }) => DrainOutcome::Reverted(RevertReason::NotIdle(reason)),
            Err(error) => DrainOutcome::Failed(format!("scaling to zero: {error}").into()),
        }
    }

    /// The version the commit is made on: the drain attempt's own.
    async fn commit_version(&self, resource: &Resource, expected: Version) -> Result<Version, ScaleError> {
        if self.rules.commit_tests_version {
            return Ok(expected);
        }
        // Only with that rule left out, to show that its loss is noticed: whatever stands now.
        let listed = self
            .plugin
            .get_resources()
            .await
            .map_err(|error| ScaleError::Terminal { reason: error.to_string() })?;
        let now = listed.readable.into_iter().find(|other| other.id == resource.id);
        now.map(|resource| resource.version).ok_or(ScaleError::Conflict)
    }

    fn scale_request(&self, resource: &Resource, version: Version, record: Record) -> ScaleRequest {
        // Decided on what the DLXs counted, it holds only if everything has passed them ever since. On path direct they count nothing:
        // the switch has seen to it.
        let counted = resource
            .interception
            .as_ref()
            .filter(|interception| interception.requested && resource.traffic_mode == TrafficMode::Always);
        let intercepted_for = counted.map_or(Duration::ZERO, |interception| interception.intercepted_for);
        let (id, deadline) = (resource.id.clone(), self.deadline);
        ScaleRequest {
            id,
            target: Target::Zero,
            version,
            record,
            deadline,
            intercepted_for,
            busy: Vec::new(),
        }
    }

    /// The members by name; none if they cannot be read.
    async fn read_members(&self, why: &mut RevertReason) -> Option<BTreeMap<String, Member>> {
        match self.members.read().await {
            Ok(live) => {
                if live.is_empty() {
                    *why = RevertReason::NoDlx("there is no DLX".to_owned());
                }
                Some(live.into_iter().map(|member| (member.name.clone(), member)).collect())
            }
            Err(error) => {
                *why = RevertReason::NoDlx(format!("listing the DLXs: {error}"));
                None
            }
        }
    }

    /// The next answer. The first that does not confirm decides.
    async fn next_answer(
        &self,
        questions: &mut JoinSet<(String, DrainAnswer)>,
        why: &mut RevertReason,
    ) -> DrainInput {
        let answer = tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            answer = questions.join_next() => Some(answer),
        };
        *why = match answer {
            Some(Some(Ok((member, DrainAnswer::Confirmed)))) => return DrainInput::Confirmed(member),
            Some(Some(Ok((member, DrainAnswer::Refused(reason))))) => {
                RevertReason::Refused(format!("DLX {member}: {reason}"))
            }
            Some(Some(Ok((member, DrainAnswer::Unreachable(unreachable))))) => {
                RevertReason::Unreachable(format!("DLX {member}: {}", unreachable.reason))
            }
            Some(Some(Err(error))) => {
                RevertReason::Unreachable(format!("the request to a DLX failed: {error}"))
            }
            Some(None) => RevertReason::Unreachable("a DLX did not answer".to_owned()),
            None => RevertReason::Stopping,
        };
        DrainInput::Refused { fresh: Nonce::fresh() }
    }
}

/// Maps an error to the protocol's input. Everything but a conflict may have happened, or half of it.
fn classify_error(error: ScaleError, what: &str, failure: &mut Option<Arc<str>>) -> Unwritten {
    if error == ScaleError::Conflict {
        return Unwritten::Conflict;
    }
    // The first one is why: after it a revert may fail, too.
    failure.get_or_insert_with(|| {
        match what {
            // Without records nothing can be drained, so nothing can sleep without losing requests.
            _ if error == ScaleError::Unsupported => {
                "its plugin stores no records (compare_and_set is unsupported), so it stays awake".to_owned()
            }
            "record" => format!("writing the record: {error}"),
            _ => format!("scaling to zero: {error}"),
        }
        .into()
    });
    Unwritten::Unknown
}

// === impl RevertReason ===

impl From<SwitchoverError> for RevertReason {
    fn from(error: SwitchoverError) -> Self {
        match error {
            SwitchoverError::Stopping => Self::Stopping,
            SwitchoverError::Changed => Self::Changed,
            SwitchoverError::NotIntercepted(why) => Self::NotIntercepted(why),
            SwitchoverError::NoShortWindow => Self::NotIdle(
                "its metric source has no window short enough to verify that it is idle".to_owned(),
            ),
        }
    }
}

// === impl DrainOutcome ===

impl DrainOutcome {
    /// `committed`, `reverted` or `failed`.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Reverted(_) => "reverted",
            Self::Failed(_) => "failed",
        }
    }

    /// Why, in one word, for metrics; stable.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Committed => "confirmed",
            Self::Reverted(RevertReason::Refused(_)) => "refused",
            Self::Reverted(RevertReason::Unreachable(_)) => "unreachable",
            Self::Reverted(RevertReason::NoDlx(_)) => "no_dlx",
            Self::Reverted(RevertReason::Changed) => "changed",
            Self::Reverted(RevertReason::Stopping) => "stopping",
            Self::Reverted(RevertReason::NotIntercepted(_)) => "not_intercepted",
            Self::Reverted(RevertReason::NotIdle(_)) => "not_idle",
            Self::Failed(_) => "call_failed",
        }
    }
}

impl fmt::Display for DrainOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Committed => f.write_str("scaled to zero"),
            Self::Reverted(RevertReason::Refused(reason) | RevertReason::Unreachable(reason)) => {
                write!(f, "reverted: the drain was not confirmed: {reason}")
            }
            Self::Reverted(RevertReason::NoDlx(reason)) => write!(f, "reverted: {reason}"),
            Self::Reverted(RevertReason::Changed) => f.write_str("reverted: its record changed meanwhile"),
            Self::Reverted(RevertReason::Stopping) => f.write_str("reverted: this autoscaler is stopping"),
            Self::Reverted(RevertReason::NotIntercepted(reason)) => {
                write!(f, "reverted: its Service was not intercepted: {reason}")
            }
            Self::Reverted(RevertReason::NotIdle(reason)) => {
                write!(f, "reverted: not idle after all: {reason}")
            }
            Self::Failed(reason) => write!(f, "failed: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests;
