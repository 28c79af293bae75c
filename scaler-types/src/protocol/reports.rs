//! Since when a leader knows everything that the DLXs did. A window is complete if it begins after that.

use std::{collections::BTreeSet, sync::Arc};

/// Why a leader does not know everything that the DLXs did before a moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Gap {
    /// It has followed the DLXs since then: it does not know the DLXs that left before, nor their counts.
    NewLeader,
    /// This DLX was gone then, without a report after its last request.
    Left(Arc<str>),
    /// DLXs may have come and gone before, unseen: the watch of the members failed.
    Unseen,
}

/// A leader's knowledge of the DLXs' reports. No input or output; `T` is a time of its clock.
///
/// A DLX that is registered counts from its beginning, so a DLX that answers now has reported all of its life. Only the
/// counts of DLXs that are gone are missing, unless they were asked once more after their last request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reports<T> {
    /// The DLXs registered when the members were last read.
    registered: BTreeSet<Arc<str>>,
    gap: Option<(T, Gap)>,
}

// === impl Reports ===

impl<T: Copy> Reports<T> {
    /// The members were read, and are `live`; the answer came at `now`. `seen`: all who registered since the members were read
    /// before, whether or not they are still there. `reported`: whether one was asked after its last request, and answered.
    pub fn read(
        &mut self,
        now: T,
        live: BTreeSet<Arc<str>>,
        seen: impl IntoIterator<Item = Arc<str>>,
        reported: impl Fn(&str) -> bool,
    ) {
        let mut before = std::mem::replace(&mut self.registered, live);
        before.extend(seen);
        let gone = before.difference(&self.registered).find(|gone| !reported(gone));
        match gone {
            _ if self.gap.is_none() => self.gap = Some((now, Gap::NewLeader)),
            Some(gone) => self.gap = Some((now, Gap::Left(gone.clone()))),
            None => {}
        }
    }

    /// The DLXs that registered since the members were last read are not known.
    pub fn unseen(&mut self, now: T) {
        if self.gap.is_some() {
            self.gap = Some((now, Gap::Unseen));
        }
    }

    /// Since when everything is known, and what is missing before; `None`: nothing is known yet.
    pub fn complete_since(&self) -> Option<(T, &Gap)> {
        self.gap.as_ref().map(|(since, gap)| (*since, gap))
    }
}

impl<T> Default for Reports<T> {
    fn default() -> Self {
        Self { registered: BTreeSet::new(), gap: None }
    }
}
