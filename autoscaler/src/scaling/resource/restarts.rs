//! Replicas that ended by themselves, or that another writer removed, and the pause before they are started again.

use std::{sync::Arc, time::Duration};

use scaler_types::{Resource, backoff::Backoff, duration::short};
use tokio::time::Instant;

/// Before they are started again.
const RESTART_PAUSE: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(300));
/// After that time without such an end the next pause is the first one again.
const STABLE_AFTER: Duration = Duration::from_secs(600);

/// The replicas of one resource that ended by themselves, or that another writer removed.
#[derive(Debug)]
pub(super) struct Restarts {
    /// The replicas that there were before; 0: none ended since their number was last changed.
    reached: u32,
    /// Some ended since the last evaluation.
    ended: bool,
    /// Another writer removed those that ended last.
    by_another: bool,
    backoff: Backoff,
    /// The pause that is not over.
    pause: Option<Instant>,
    /// When the last pause was, or will be, over.
    over: Option<Instant>,
    /// They ended again after they had been started again.
    repeats: bool,
    /// What was reported last.
    reported: Option<Arc<str>>,
}

// === impl Restarts ===

impl Restarts {
    /// None ended.
    pub(super) fn new() -> Self {
        Self {
            reached: 0,
            ended: false,
            by_another: false,
            backoff: RESTART_PAUSE,
            pause: None,
            over: None,
            repeats: false,
            reported: None,
        }
    }

    /// The plugin lists it anew. Each step, wake and scale to zero writes another nonce. A plugin that knows rollouts lists the
    /// replicas that are wanted, whether or not they run: only another writer lowers them without a nonce.
    pub(super) fn observe(&mut self, before: &Resource, listed: &Resource) {
        let is_unwritten =
            before.record.nonce == listed.record.nonce && before.record.phase == listed.record.phase;
        if is_unwritten && listed.replicas < before.replicas {
            (self.ended, self.reached) = (true, self.reached.max(before.replicas));
            self.by_another = listed.rollout.is_some();
        } else if listed.replicas != before.replicas {
            self.reached = 0;
        }
    }

    /// Begins a pause if some ended, and ends one that is over.
    pub(super) fn advance(&mut self, now: Instant) {
        self.pause = self.pause.filter(|until| now < *until);
        if !std::mem::take(&mut self.ended) || self.pause.is_some() {
            return;
        }
        let is_stable = |over: Instant| now.saturating_duration_since(over) >= STABLE_AFTER;
        self.repeats = self.over.is_some_and(|over| !is_stable(over));
        if !self.repeats {
            (self.backoff, self.reported) = (RESTART_PAUSE, None);
        }
        let until = now + self.backoff.next_pause();
        (self.pause, self.over) = (Some(until), Some(until));
    }

    /// When the pause is over, if there is one.
    pub(super) fn pause(&self) -> Option<Instant> {
        self.pause
    }

    /// Whether scaling to this many replicas would restart those that ended while the pause lasts. More than there were before is
    /// growth, and not delayed.
    pub(super) fn delays(&self, replicas: u32) -> bool {
        self.pause.is_some() && replicas <= self.reached
    }

    /// Why they are not started again yet; `status`: how one ended, if the plugin says that.
    pub(super) fn reason(&self, now: Instant, status: &str) -> Option<String> {
        let left = self.pause?.checked_duration_since(now)?;
        let left = Duration::from_secs(left.as_secs().max(1));
        Some(format!("{}; to be started again in {}", self.cause(status), short(left)))
    }

    /// That they end again and again, if that is to be reported now: once, until they end in another way.
    pub(super) fn take_report(&mut self, status: &str) -> Option<Arc<str>> {
        if self.pause.is_none() || !self.repeats {
            return None;
        }
        let why: Arc<str> = self.cause(status).into();
        let is_new = self.reported.as_ref() != Some(&why);
        self.reported = Some(why.clone());
        is_new.then_some(why)
    }

    fn cause(&self, status: &str) -> String {
        match status {
            _ if self.by_another => "Another writer lowers its replicas".to_owned(),
            "" => "Replicas end by themselves".to_owned(),
            how => format!("Replicas end by themselves: {how}"),
        }
    }
}
