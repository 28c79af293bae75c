//! Which resources changed, in order.

use std::collections::{BTreeMap, HashMap};

use scaler_types::ResourceId;

/// How many resources that are gone are remembered; a reader that missed more gets everything.
const MAX_REMOVED: usize = 10_000;

/// Which resources changed, each at its last change only.
#[derive(Debug, Default)]
pub(crate) struct ChangeLog {
    last: u64,
    by_number: BTreeMap<u64, ResourceId>,
    of: HashMap<ResourceId, u64>,
    gone: BTreeMap<u64, ResourceId>,
    /// Changes before this are no longer known in full.
    floor: u64,
}

// === impl ChangeLog ===

impl ChangeLog {
    /// A resource is new or changed.
    pub(crate) fn changed(&mut self, id: &ResourceId) {
        self.forget(id);
        self.last += 1;
        self.by_number.insert(self.last, id.clone());
        self.of.insert(id.clone(), self.last);
    }

    /// A resource is gone.
    pub(crate) fn removed(&mut self, id: &ResourceId) {
        self.forget(id);
        self.last += 1;
        self.gone.insert(self.last, id.clone());
        self.of.insert(id.clone(), self.last);
        if self.gone.len() > MAX_REMOVED
            && let Some((number, id)) = self.gone.pop_first()
        {
            self.floor = number;
            self.of.remove(&id);
        }
    }

    /// Where it stands; never 0.
    pub(crate) fn cursor(&self) -> u64 {
        self.last + 1
    }

    /// The changed and the removed resources since then, or `None`: the cursor is too old.
    pub(crate) fn since(&self, cursor: u64) -> Option<(Vec<ResourceId>, Vec<ResourceId>)> {
        if cursor == 0 || cursor > self.cursor() || cursor <= self.floor {
            return None;
        }
        let all = |of: &BTreeMap<u64, ResourceId>| of.range(cursor..).map(|(_, id)| id.clone()).collect();
        Some((all(&self.by_number), all(&self.gone)))
    }

    fn forget(&mut self, id: &ResourceId) {
        if let Some(number) = self.of.remove(id) {
            self.by_number.remove(&number);
            self.gone.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> ResourceId {
        ResourceId::new("shop", name)
    }

    #[test]
    fn each_change_is_listed_once_and_in_order() {
        let mut log = ChangeLog::default();
        let start = log.cursor();
        assert_eq!(log.since(start), Some((vec![], vec![])));
        log.changed(&id("a"));
        log.changed(&id("b"));
        log.changed(&id("a"));
        assert_eq!(log.since(start), Some((vec![id("b"), id("a")], vec![])));
        let later = log.cursor();
        log.removed(&id("b"));
        assert_eq!(log.since(later), Some((vec![], vec![id("b")])));
        assert_eq!(log.since(start), Some((vec![id("a")], vec![id("b")])));
        log.changed(&id("b"));
        assert_eq!(log.since(later), Some((vec![id("b")], vec![])));
        assert_eq!(log.since(0), None, "who knows nothing is told everything");
        assert_eq!(log.since(log.cursor() + 1), None, "a cursor of another instance");
    }

    #[test]
    fn a_cursor_that_is_too_old_gets_everything() {
        let mut log = ChangeLog::default();
        let start = log.cursor();
        for number in 0..=MAX_REMOVED {
            log.removed(&id(&number.to_string()));
        }
        assert_eq!(log.since(start), None);
        assert_eq!(log.since(log.cursor()), Some((vec![], vec![])));
        assert_eq!(log.since(start + 1).unwrap().1.len(), MAX_REMOVED);
    }
}
