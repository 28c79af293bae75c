//! Counts requests within windows of any length.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// How many snapshots are kept per resource. With more, every other one of the older half is dropped.
const MAX_SNAPSHOTS: usize = 256;

/// Snapshots of the total, at most one per second and only while requests come.
///
/// A window's count is the total now minus the total at the latest snapshot before the window: it may count a little
/// too much at the window's edge, never too little.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// The second of the latest snapshot, plus one; 0 is none.
    second: AtomicU64,
    snapshots: Mutex<VecDeque<Snapshot>>,
}

#[derive(Clone, Copy, Debug)]
struct Snapshot {
    at_ms: u64,
    /// All requests that were counted by then: none of them came later.
    total: u64,
}

// === impl History ===

impl History {
    /// Call it before a request is counted in `total`. Takes the lock once a second.
    pub(crate) fn note(&self, now_ms: u64, total: &AtomicU64) {
        let second = now_ms / 1000 + 1;
        if self.second.load(Ordering::Relaxed) != second {
            self.snapshot(now_ms, second, total);
        }
    }

    #[cold]
    fn snapshot(&self, now_ms: u64, second: u64, total: &AtomicU64) {
        let mut snapshots = self.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        if self.second.load(Ordering::Relaxed) >= second {
            return;
        }
        // Not older than the total that is read next.
        let at_ms = crate::clock::now_ms().max(now_ms);
        snapshots.push_back(Snapshot { at_ms, total: total.load(Ordering::SeqCst) });
        self.second.store(second, Ordering::Relaxed);
        if snapshots.len() > MAX_SNAPSHOTS {
            let half = MAX_SNAPSHOTS / 2;
            let kept: VecDeque<_> = snapshots
                .iter()
                .enumerate()
                .filter(|(i, _)| *i >= half || i % 2 == 0)
                .map(|(_, s)| *s)
                .collect();
            *snapshots = kept;
        }
    }

    /// Requests that came since `cutoff_ms`, out of `total`.
    pub(crate) fn count_since(&self, cutoff_ms: u64, total: u64) -> u64 {
        let snapshots = self.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        let before = snapshots.iter().rev().find(|snapshot| snapshot.at_ms <= cutoff_ms);
        total.saturating_sub(before.map_or(0, |snapshot| snapshot.total))
    }

    /// Requests within `window` before `now_ms`, the last of which came at `last_ms`.
    pub(crate) fn count(&self, window: Duration, now_ms: u64, last_ms: Option<u64>, total: u64) -> u64 {
        let window = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        let cutoff = now_ms.saturating_sub(window);
        match last_ms {
            Some(last) if window > now_ms || last >= cutoff => self.count_since(cutoff, total),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request every `gap` ms from `from` to `to`.
    fn fill(history: &History, total: &AtomicU64, from: u64, to: u64, gap: u64) {
        let mut at = from;
        while at < to {
            // The clock of the test stands still, so the snapshot carries the time given.
            history.note(at, total);
            total.fetch_add(1, Ordering::SeqCst);
            at += gap;
        }
    }

    #[test]
    fn a_window_counts_what_came_in_it_and_little_more() {
        let (history, total) = (History::default(), AtomicU64::new(0));
        let start = 10_000_000;
        fill(&history, &total, start, start + 600_000, 100);
        let now = start + 600_000;
        let count =
            history.count(Duration::from_secs(60), now, Some(now - 100), total.load(Ordering::SeqCst));
        assert!((600..=650).contains(&count), "{count}");
        let all =
            history.count(Duration::from_secs(3600), now, Some(now - 100), total.load(Ordering::SeqCst));
        assert_eq!(all, 6000);
    }

    #[test]
    fn requests_before_the_window_are_not_counted() {
        let (history, total) = (History::default(), AtomicU64::new(0));
        fill(&history, &total, 10_000_000, 10_001_000, 10);
        assert_eq!(history.count(Duration::from_secs(60), 10_100_000, Some(10_000_990), 100), 0);
    }

    #[test]
    fn old_snapshots_are_thinned() {
        let (history, total) = (History::default(), AtomicU64::new(0));
        fill(&history, &total, 10_000_000, 20_000_000, 1000);
        assert!(history.snapshots.lock().unwrap().len() <= MAX_SNAPSHOTS);
        let count = history.count(Duration::from_secs(9000), 20_000_000, Some(19_999_000), 10_000);
        assert!((9000..=10_000).contains(&count), "{count}");
    }
}
