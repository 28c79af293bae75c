//! How many requests there were.

use std::{collections::BTreeMap, sync::Mutex};

use crate::{access::User, faults::Filter, http::request::Target};

/// How many requests there were, by who asked what of which resource.
#[derive(Debug, Default)]
pub struct Requests {
    asked: Mutex<BTreeMap<Asked, u64>>,
    forbidden: Mutex<BTreeMap<Asked, u64>>,
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    /// By whom.
    pub user: String,
    /// `list` for instance; `get` for discovery, `dry-run` for what was to write nothing.
    pub verb: &'static str,
    /// `deployments` or `deployments/scale`; empty for discovery.
    pub resource: String,
}

// === impl Requests ===

impl Requests {
    pub(crate) fn count(&self, user: &User, target: &Target) {
        *self.lock().entry(Asked::new(user, target)).or_default() += 1;
    }

    pub(crate) fn count_forbidden(&self, user: &User, target: &Target) {
        let mut forbidden = self.forbidden.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *forbidden.entry(Asked::new(user, target)).or_default() += 1;
    }

    /// Those that their users had no right to, and were answered 403.
    pub fn forbidden(&self) -> BTreeMap<Asked, u64> {
        self.forbidden.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// How many there were of a sort since the start or the last [`Requests::reset`]. A watch counts once, when it begins.
    pub fn of(&self, filter: &Filter) -> u64 {
        let counts = self.lock();
        let fits = |asked: &Asked| filter.fits(&asked.user, asked.verb, &asked.resource);
        counts.iter().filter(|(asked, _)| fits(asked)).map(|(_, count)| count).sum()
    }

    /// All of them.
    pub fn all(&self) -> BTreeMap<Asked, u64> {
        self.lock().clone()
    }

    /// Counts from 0 again.
    pub fn reset(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Asked, u64>> {
        self.asked.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

// === impl Asked ===

impl Asked {
    fn new(user: &User, target: &Target) -> Self {
        Self { user: user.to_string(), verb: target.counted_verb(), resource: target.full_resource() }
    }
}
