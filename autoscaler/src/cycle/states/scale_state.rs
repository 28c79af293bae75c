//! Whether a resource is asleep or awake, in one word, and since when.

use scaler_types::{Phase, Resource};
use tokio::time::Instant;

/// A resource's state for people: its phase and its replicas together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScaleState {
    /// It has replicas.
    Awake,
    /// It has none; the next request wakes it.
    Asleep,
    /// On its way up.
    Waking,
    /// Its last wake failed; the next request starts another.
    Failed,
}

/// A state, and since when this process has seen it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScaleStateSince {
    /// The state.
    pub(crate) state: ScaleState,
    /// When it was seen first.
    pub(crate) since: Instant,
    /// The change to it was seen, so it is not older.
    pub(crate) change_seen: bool,
}

// === impl ScaleState ===

impl ScaleState {
    /// The state of a resource as its plugin lists it.
    pub(crate) fn for_resource(resource: &Resource) -> Self {
        match (resource.record.phase, resource.replicas) {
            (Phase::Waking, _) => Self::Waking,
            (Phase::Failed, _) => Self::Failed,
            (Phase::Active | Phase::Draining | Phase::Asleep, 0) => Self::Asleep,
            (Phase::Active | Phase::Draining | Phase::Asleep, _) => Self::Awake,
        }
    }

    /// In one word.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Awake => "awake",
            Self::Asleep => "asleep",
            Self::Waking => "waking",
            Self::Failed => "failed",
        }
    }
}

// === impl ScaleStateSince ===

impl ScaleStateSince {
    /// Of a resource that is seen for the first time: it may have been so before.
    pub(crate) fn first(now: Instant, resource: &Resource) -> Self {
        Self { state: ScaleState::for_resource(resource), since: now, change_seen: false }
    }

    /// The resource is seen again.
    pub(crate) fn observe(&mut self, now: Instant, resource: &Resource) {
        let state = ScaleState::for_resource(resource);
        if state != self.state {
            *self = Self { state, since: now, change_seen: true };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use scaler_types::ResourceId;

    use super::*;

    #[test]
    fn a_state_is_as_old_as_its_last_change_that_was_seen() {
        let mut resource = Resource::new(ResourceId::new("shop", "web"));
        let begin = Instant::now();
        let after = |seconds| begin + Duration::from_secs(seconds);
        let mut known = ScaleStateSince::first(begin, &resource);
        assert_eq!((known.state, known.change_seen), (ScaleState::Asleep, false));
        known.observe(after(1), &resource);
        assert_eq!((known.since, known.change_seen), (begin, false));
        for (now, phase, replicas, state, since) in [
            (2, Phase::Waking, 1, ScaleState::Waking, 2),
            (3, Phase::Active, 1, ScaleState::Awake, 3),
            // A drain attempt that is reverted changes nothing for people.
            (4, Phase::Draining, 1, ScaleState::Awake, 3),
            (5, Phase::Active, 2, ScaleState::Awake, 3),
            (6, Phase::Asleep, 0, ScaleState::Asleep, 6),
            (7, Phase::Failed, 0, ScaleState::Failed, 7),
        ] {
            (resource.record.phase, resource.replicas) = (phase, replicas);
            known.observe(after(now), &resource);
            assert_eq!((known.state, known.since, known.change_seen), (state, after(since), true), "{phase}");
        }
    }
}
