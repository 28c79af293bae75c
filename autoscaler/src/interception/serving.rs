//! How the DLXs are, all together, by this process's clock.

use std::{sync::Arc, time::Duration};

use daemon::members::serving::ReadyDlxs;
use scaler_types::{Dlx, protocol::Dlxs};
use tokio::{sync::watch, time::Instant};

use super::InterceptionConditions;

/// The ready DLXs, and the delays of interception. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ServingDlxs {
    /// The DLXs that take requests.
    pub(crate) serving: watch::Receiver<ReadyDlxs>,
    /// How long clients may take to follow a change of a Service.
    pub(crate) propagation_delay: Duration,
    /// How long no DLX is ready until traffic fails over to the pods.
    pub(crate) unavailable_timeout: Duration,
}

/// The DLXs as one interceptor saw them so far.
#[derive(Debug, Default)]
pub(super) struct ObservedDlxs {
    /// The last that were any.
    named: Arc<[Dlx]>,
    serving: bool,
    /// Since when there has been none.
    none_since: Option<Instant>,
}

// === impl ServingDlxs ===

impl ServingDlxs {
    /// What decisions need of it now.
    pub(crate) fn conditions(&self) -> InterceptionConditions {
        InterceptionConditions {
            dlx_available: self.any_serving(),
            propagation_delay: self.propagation_delay,
        }
    }

    /// Whether at least one DLX takes requests.
    pub(crate) fn any_serving(&self) -> bool {
        self.serving.borrow().as_deref().is_some_and(|dlxs| !dlxs.is_empty())
    }
}

// === impl ObservedDlxs ===

impl ObservedDlxs {
    /// They are so now.
    pub(super) fn observe(&mut self, now: Instant, known: &ReadyDlxs) {
        match known {
            Some(dlxs) if !dlxs.is_empty() => {
                (self.named, self.serving, self.none_since) = (dlxs.clone(), true, None);
            }
            Some(_) => {
                self.serving = false;
                self.none_since.get_or_insert(now);
            }
            None => {}
        }
    }

    /// How they are.
    pub(super) fn availability(&self, now: Instant, unavailable_timeout: Duration) -> Dlxs {
        match self.unavailable_at(unavailable_timeout) {
            _ if self.serving => Dlxs::Serving,
            Some(dead) if now >= dead => Dlxs::Dead,
            _ => Dlxs::Away,
        }
    }

    /// When traffic fails over to the pods, if no DLX is ready until then.
    pub(super) fn unavailable_at(&self, unavailable_timeout: Duration) -> Option<Instant> {
        self.none_since.and_then(|since| since.checked_add(unavailable_timeout))
    }

    /// The DLXs to name in slices: while none is ready, the last ones, which are named already. Empty: there
    /// was none since this process is the leader.
    pub(super) fn named(&self) -> Vec<Dlx> {
        self.named.to_vec()
    }

    /// Whether any can be.
    pub(super) fn any_named(&self) -> bool {
        !self.named.is_empty()
    }
}
