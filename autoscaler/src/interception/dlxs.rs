//! How the DLXs are, all together, by this process's clock.

use std::{sync::Arc, time::Duration};

use daemon::members::serving::Known;
use scaler_types::{Dlx, protocol::Dlxs};
use tokio::{sync::watch, time::Instant};

use super::RouteFacts;

/// What routes are led by. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Leading {
    /// The DLXs that take requests.
    pub serving: watch::Receiver<Known>,
    /// How long whoever connects may take to follow a change of a route.
    pub grace: Duration,
    /// How long no DLX takes requests until nobody waits for one.
    pub dead_man: Duration,
}

/// The DLXs as one router saw them so far.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// The last that were any.
    named: Arc<[Dlx]>,
    serving: bool,
    /// Since when there has been none.
    none_since: Option<Instant>,
}

// === impl Leading ===

impl Leading {
    /// What decisions need of it now.
    pub fn facts(&self) -> RouteFacts {
        RouteFacts { served: self.served(), grace: self.grace }
    }

    /// Whether at least one DLX takes requests.
    pub fn served(&self) -> bool {
        self.serving.borrow().as_deref().is_some_and(|dlxs| !dlxs.is_empty())
    }
}

// === impl Watched ===

impl Watched {
    /// They are so now.
    pub(super) fn saw(&mut self, now: Instant, known: &Known) {
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
    pub(super) fn all(&self, now: Instant, dead_man: Duration) -> Dlxs {
        match self.dead_at(dead_man) {
            _ if self.serving => Dlxs::Serving,
            Some(dead) if now >= dead => Dlxs::Dead,
            _ => Dlxs::Away,
        }
    }

    /// When nobody waits for them any more, if none comes until then.
    pub(super) fn dead_at(&self, dead_man: Duration) -> Option<Instant> {
        self.none_since.and_then(|since| since.checked_add(dead_man))
    }

    /// Those that are to be named in a route: while there is none, the last there were, as they are named already. Empty: there
    /// was none since this process leads.
    pub(super) fn named(&self) -> Vec<Dlx> {
        self.named.to_vec()
    }

    /// Whether any can be.
    pub(super) fn any_named(&self) -> bool {
        !self.named.is_empty()
    }
}
