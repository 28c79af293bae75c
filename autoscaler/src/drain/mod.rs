//! One try to put one resource to zero: drives [`protocol::Fence`](Fence) with real calls.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use daemon::members::Member;
use scaler_types::{
    Nonce, Path, Resource, Row, ScaleError, ScaleRequest, State, Target, Version,
    protocol::{Fence, FenceInput, FenceOrder, Outcome, Rules, Step, Unwritten, transition},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    decide::{Evidence, still_idle},
    interception::{Switch, SwitchError},
    observe::{
        Measure,
        members::{Answer, Members},
    },
    plugin::{Plugin, seen},
};

/// A try, and what it needs.
pub struct Try<P> {
    /// The resource's plugin.
    pub plugin: P,
    /// Who is asked.
    pub members: Members,
    /// The protocol's rules.
    pub rules: Rules,
    /// How long the scale to zero may take.
    pub deadline: Duration,
    /// What switching the route of one on path direct needs.
    pub switch: Switch,
    /// Cancelled when the process is to end: a try that is not committed by then is reverted.
    pub stop: CancellationToken,
}

/// How a try ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The resource is at zero.
    Committed,
    /// It is as it was, or as somebody else changed it.
    Reverted(Why),
    /// A call failed; what it did is not known. The next cycle looks at the row and goes on from there.
    Failed(Arc<str>),
}

/// Why a try was reverted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// A DLX did not confirm.
    Refused(String),
    /// A DLX gave no usable answer.
    Silent(String),
    /// There is no DLX, or they cannot be told.
    Members(String),
    /// Somebody else changed the resource meanwhile: a request came, most likely.
    Changed,
    /// The process is to end.
    Stopping,
    /// Its route could not be switched, and why.
    NotSwitched(Arc<str>),
    /// With its route switched it was not seen idle, and why.
    NotIdle(String),
}

// === impl Try ===

impl<P: Plugin> Try<P> {
    /// Puts `resource` to zero as it was seen, or leaves it as it is. `reason`: why it is idle, written on the row.
    pub async fn run(&self, resource: &Resource, reason: &str) -> End {
        if resource.path == Path::External {
            return self.unfenced(resource, reason).await;
        }
        let fresh = Nonce::fresh();
        let Some((mut fence, mut order)) = Fence::begin(self.rules, seen(resource), fresh, reason) else {
            return End::Reverted(Why::Changed);
        };
        if resource.path == Path::Direct {
            fence = fence.switching();
        }
        let mut live = BTreeMap::new();
        let mut questions: JoinSet<(String, Answer)> = JoinSet::new();
        let mut why = Why::Changed;
        let mut failure = None;
        let outcome = loop {
            let input = match order {
                FenceOrder::Write { expected, mut row } => {
                    // A revert: who reads the row is told why.
                    if row.state == State::Active {
                        row.reason = format!("kept awake: {}", End::Reverted(why.clone()));
                    }
                    let written = self.plugin.compare_and_set(&resource.id, &expected, &row).await;
                    FenceInput::Wrote(written.map_err(|error| unwritten(error, "row", &mut failure)))
                }
                FenceOrder::ReadMembers => {
                    live = self.live(&mut why).await;
                    FenceInput::Members { members: live.keys().cloned().collect(), fresh: Nonce::fresh() }
                }
                FenceOrder::Ask { members, nonce } => {
                    for member in members.iter().filter_map(|name| live.get(name)).cloned() {
                        let (dlxs, kind, id) =
                            (self.members.clone(), self.plugin.kind().to_owned(), resource.id.clone());
                        questions.spawn(async move {
                            let answer = dlxs.confirm(&member, &kind, &id, nonce).await;
                            (member.name, answer)
                        });
                    }
                    self.answer(&mut questions, &mut why).await
                }
                FenceOrder::Nothing => self.answer(&mut questions, &mut why).await,
                FenceOrder::Switch => {
                    let seen_idle = self.seen_idle(resource, fresh).await;
                    let idle = seen_idle.is_ok();
                    if let Err(reason) = seen_idle {
                        why = reason;
                    }
                    FenceInput::Switched { idle, fresh: Nonce::fresh() }
                }
                FenceOrder::Commit { expected, row } => {
                    FenceInput::Scaled(match self.version(resource, expected).await {
                        Ok(version) => {
                            let scaled = self.plugin.set_scale(&self.zero(resource, version, row)).await;
                            scaled.map_err(|error| unwritten(error, "scale", &mut failure))
                        }
                        Err(error) => Err(unwritten(error, "scale", &mut failure)),
                    })
                }
                FenceOrder::End(outcome) => break outcome,
            };
            order = fence.step(input);
        };
        match (outcome, failure) {
            (Outcome::Asleep, _) => End::Committed,
            (Outcome::Reverted, None) => End::Reverted(why),
            // Also a revert that could not be written: the next cycle finds the fence and lifts it.
            (Outcome::Reverted | Outcome::Unknown, failure) => {
                End::Failed(failure.unwrap_or_else(|| "what a call did is not known".into()))
            }
        }
    }

    /// Waits until everything for `resource` has been led to the DLXs for the grace, and looks at it once more. `fence`: the
    /// nonce of the fence that every DLX has confirmed.
    async fn seen_idle(&self, resource: &Resource, fence: Nonce) -> Result<(), Why> {
        let Self { plugin, members, switch, stop, .. } = self;
        let (metrics, activity) =
            switch.sample(plugin.kind(), members, resource, fence, stop).await.map_err(Why::from)?;
        let nothing = (Vec::new(), Vec::new());
        let samples = activity.samples.first().unwrap_or(&nothing.0);
        let measure = Measure::Readings(activity.readings.iter().flatten().next().unwrap_or(&nothing.1));
        let evidence =
            Evidence { source: &activity.source, samples, measure, routes: switch.leading.facts() };
        still_idle(&metrics, evidence).map_err(|reason| Why::NotIdle(reason.to_string()))
    }

    /// Puts a resource to zero whose route another controller switches: its requests pass no DLX that could be asked, what
    /// is promised is that controller's.
    async fn unfenced(&self, resource: &Resource, reason: &str) -> End {
        let mut seen = seen(resource);
        let row = [Step::Fence, Step::Commit].into_iter().try_fold(seen.row.clone(), |_, step| {
            seen.row = transition(&seen, step, Nonce::fresh(), reason)?;
            Some(seen.row.clone())
        });
        let Some(row) = row else { return End::Reverted(Why::Changed) };
        match self.plugin.set_scale(&self.zero(resource, resource.version.clone(), row)).await {
            Ok(()) => End::Committed,
            Err(ScaleError::Conflict) => End::Reverted(Why::Changed),
            Err(error) => End::Failed(format!("scaling to zero: {error}").into()),
        }
    }

    /// The version the commit is made on: the fence's own.
    async fn version(&self, resource: &Resource, expected: Version) -> Result<Version, ScaleError> {
        if self.rules.commit_tests_version {
            return Ok(expected);
        }
        // Only with that rule left out, to show that its loss is noticed: whatever stands now.
        let listed = self.plugin.get_resources().await.map_err(|reason| ScaleError::Terminal { reason })?;
        let now = listed.into_iter().find(|other| other.id == resource.id);
        now.map(|resource| resource.version).ok_or(ScaleError::Conflict)
    }

    fn zero(&self, resource: &Resource, version: Version, row: Row) -> ScaleRequest {
        // Decided on what the DLXs counted, it holds only if everything has passed them ever since. On path direct they count nothing:
        // the switch has seen to it.
        let counted = resource.route.as_ref().filter(|route| route.asked && resource.path == Path::Always);
        let led_for = counted.map_or(Duration::ZERO, |route| route.led_for);
        let (id, deadline) = (resource.id.clone(), self.deadline);
        ScaleRequest { id, target: Target::Zero, version, row, deadline, led_for }
    }

    /// The members by name; none where they cannot be told.
    async fn live(&self, why: &mut Why) -> BTreeMap<String, Member> {
        match self.members.live().await {
            Ok(live) => {
                if live.is_empty() {
                    *why = Why::Members("there is no DLX".to_owned());
                }
                live.into_iter().map(|member| (member.name.clone(), member)).collect()
            }
            Err(error) => {
                *why = Why::Members(format!("reading the members: {error}"));
                BTreeMap::new()
            }
        }
    }

    /// The next answer. The first that does not confirm decides.
    async fn answer(&self, questions: &mut JoinSet<(String, Answer)>, why: &mut Why) -> FenceInput {
        let answer = tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            answer = questions.join_next() => Some(answer),
        };
        *why = match answer {
            Some(Some(Ok((member, Answer::Confirmed)))) => return FenceInput::Confirmed(member),
            Some(Some(Ok((member, Answer::Refused(reason))))) => Why::Refused(format!("{member}: {reason}")),
            Some(Some(Ok((member, Answer::Silent(silent))))) => {
                Why::Silent(format!("{member}: {}", silent.reason))
            }
            Some(Some(Err(error))) => Why::Silent(format!("asking a DLX: {error}")),
            Some(None) => Why::Silent("an answer is missing".to_owned()),
            None => Why::Stopping,
        };
        FenceInput::Refused { fresh: Nonce::fresh() }
    }
}

/// What the protocol makes of an error. Everything but a conflict may have happened, or half of it.
fn unwritten(error: ScaleError, what: &str, failure: &mut Option<Arc<str>>) -> Unwritten {
    if error == ScaleError::Conflict {
        return Unwritten::Conflict;
    }
    *failure = Some(
        match what {
            // Without rows nothing can be fenced, so nothing can sleep without losing requests.
            _ if error == ScaleError::Unsupported => {
                "its plugin keeps no rows (compare_and_set), so it stays awake".to_owned()
            }
            "row" => format!("writing the row: {error}"),
            _ => format!("scaling to zero: {error}"),
        }
        .into(),
    );
    Unwritten::Unknown
}

// === impl Why ===

impl From<SwitchError> for Why {
    fn from(error: SwitchError) -> Self {
        match error {
            SwitchError::Stopping => Self::Stopping,
            SwitchError::Changed => Self::Changed,
            SwitchError::NotSwitched(why) => Self::NotSwitched(why),
            SwitchError::NoShortWindow => {
                Self::NotIdle("its metric source tells nothing of so short a time".to_owned())
            }
        }
    }
}

// === impl End ===

impl End {
    /// `committed`, `reverted` or `failed`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Reverted(_) => "reverted",
            Self::Failed(_) => "failed",
        }
    }

    /// Why, in one word, for metrics; stable.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Committed => "confirmed",
            Self::Reverted(Why::Refused(_)) => "refused",
            Self::Reverted(Why::Silent(_)) => "silent",
            Self::Reverted(Why::Members(_)) => "no_members",
            Self::Reverted(Why::Changed) => "changed",
            Self::Reverted(Why::Stopping) => "stopping",
            Self::Reverted(Why::NotSwitched(_)) => "not_switched",
            Self::Reverted(Why::NotIdle(_)) => "not_idle",
            Self::Failed(_) => "call_failed",
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Committed => f.write_str("at zero"),
            Self::Reverted(Why::Refused(reason) | Why::Silent(reason)) => {
                write!(f, "reverted, not confirmed by DLX {reason}")
            }
            Self::Reverted(Why::Members(reason)) => write!(f, "reverted: {reason}"),
            Self::Reverted(Why::Changed) => f.write_str("given up: somebody else changed it meanwhile"),
            Self::Reverted(Why::Stopping) => f.write_str("reverted: this autoscaler is stopping"),
            Self::Reverted(Why::NotSwitched(reason)) => {
                write!(f, "reverted, its Service was not led to the DLXs: {reason}")
            }
            Self::Reverted(Why::NotIdle(reason)) => {
                write!(f, "reverted, not idle once its Service led to the DLXs: {reason}")
            }
            Self::Failed(reason) => write!(f, "failed: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests;
