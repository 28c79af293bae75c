//! The rules for a rollout of a resource's current revision: nothing sleeps before it is over, and the windows begin when
//! it was ready.

use std::time::Duration;

use scaler_types::{Phase, Resource, Rollout, RolloutPhase};
use tokio::time::Instant;

use super::{Reason, ScaleHistory};

/// How long a rollout may go without progress where the resource itself does not say: as long as a Deployment by default.
pub(crate) const DEADLINE: Duration = Duration::from_secs(600);

/// A rollout as this process saw it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ObservedRollout {
    revision: String,
    status: String,
    /// Since when it has made no progress.
    stands_since: Instant,
    /// Since when it is ready; what is no longer ready was.
    pub(super) ready_since: Option<Instant>,
}

// === impl ObservedRollout ===

impl ObservedRollout {
    /// `resource` is seen now, and was seen as `before` the last time; `woken`: a wake began in between.
    pub(crate) fn observe(
        before: Option<Self>,
        now: Instant,
        resource: &Resource,
        woken: bool,
    ) -> Option<Self> {
        let rollout = resource.rollout.as_ref().filter(|_| resource.replicas > 0)?;
        let mut seen = match before.filter(|seen| seen.revision == rollout.revision && !woken) {
            Some(seen) => seen,
            None => Self::new(now, rollout),
        };
        if seen.status != rollout.status {
            seen.status.clone_from(&rollout.status);
            seen.stands_since = now;
        }
        // While it wakes, a DLX or the leader says when it is up.
        if rollout.phase == RolloutPhase::Complete && resource.record.phase != Phase::Waking {
            seen.ready_since.get_or_insert(now);
        }
        Some(seen)
    }

    fn new(now: Instant, rollout: &Rollout) -> Self {
        let Rollout { revision, status, .. } = rollout.clone();
        Self { revision, status, stands_since: now, ready_since: None }
    }
}

/// Whether the rollout is over, well or not.
pub(super) fn check_finished(
    now: Instant,
    resource: &Resource,
    history: &ScaleHistory,
) -> Result<(), Reason> {
    let Some(rollout) =
        resource.rollout.as_ref().filter(|rollout| rollout.phase == RolloutPhase::Progressing)
    else {
        return Ok(());
    };
    let deadline = rollout.deadline.unwrap_or(DEADLINE);
    match &history.rollout {
        // Pods that are no longer ready are no rollout.
        Some(seen) if seen.ready_since.is_some() => Ok(()),
        Some(seen) if now.duration_since(seen.stands_since) >= deadline => Ok(()),
        _ => Err(Reason::RollingOut { status: rollout.status.as_str().into(), deadline }),
    }
}

/// Whether it has been ready for the largest window.
pub(super) fn check_ready_for(now: Instant, history: &ScaleHistory, window: Duration) -> Result<(), Reason> {
    let ready = history.rollout.as_ref().and_then(|seen| seen.ready_since);
    match ready.map(|ready| now.duration_since(ready)).filter(|ago| *ago < window) {
        Some(ago) => Err(Reason::Ready { ago, window }),
        None => Ok(()),
    }
}
