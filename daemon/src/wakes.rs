//! How many workloads a daemon wakes at once: a crawler, the end of an outage, or the DLXs' own end may want thousands of them in the
//! same second.
//!
//! Each daemon has a budget of its own. It is shared out fairly: the next slot goes to the namespace that has the
//! fewest, and a wake that a request waits for goes before one without a request. Those have half of the slots at most,
//! so that a request finds one.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use scaler_types::Nonce;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};

/// Wakes at once, unless `--max-concurrent-wakes` says otherwise.
pub const DEFAULT: usize = 64;
/// How long a wake that no request waits for keeps its slot at most: those that never start hold up the others for that long.
pub const WAKE_SLOT_TIMEOUT: Duration = Duration::from_secs(60);
/// The time over which wakes without a waiting request are spread.
const JITTER: Duration = Duration::from_millis(500);

/// What a wake is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WakeFor {
    /// A request or a user waits for it.
    Request,
    /// No request waits: the resource is to be reached without a DLX.
    Failover,
}

/// The budget of this daemon. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub struct Wakes(Arc<Mutex<Budget>>);

/// A wake may be under way, until this is dropped.
#[derive(Debug)]
pub struct WakeSlot {
    wakes: Wakes,
    namespace: Arc<str>,
    waits: WakeFor,
}

#[derive(Debug)]
struct Budget {
    limit: usize,
    namespaces: BTreeMap<Arc<str>, Share>,
    /// Counts the assigned slots, so that of two namespaces with as many the one that waited longer is next.
    assigned: u64,
}

/// One namespace's part.
#[derive(Debug, Default)]
struct Share {
    limit: usize,
    /// By who waits for them.
    under_way: [usize; 2],
    waiting: [VecDeque<oneshot::Sender<WakeSlot>>; 2],
    last: u64,
}

// === impl Wakes ===

impl Wakes {
    /// So many at once, one at least.
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Mutex::new(Budget { limit: limit.max(1), namespaces: BTreeMap::new(), assigned: 0 })))
    }

    /// Waits for a slot. `limit`: how many this namespace may have at once.
    pub async fn slot(&self, namespace: &str, limit: usize, waits: WakeFor) -> WakeSlot {
        loop {
            let (sender, receiver) = oneshot::channel();
            {
                let mut budget = self.budget();
                let share = budget.namespaces.entry(namespace.into()).or_default();
                share.limit = limit.max(1);
                share.waiting[waits as usize].push_back(sender);
            }
            self.give();
            // An error never comes: every sender that is taken sends.
            if let Ok(slot) = receiver.await {
                return slot;
            }
        }
    }

    /// How many are under way.
    pub fn under_way(&self) -> usize {
        let budget = self.budget();
        budget.under_way(WakeFor::Request) + budget.under_way(WakeFor::Failover)
    }

    /// Gives the slots there are to those who wait.
    fn give(&self) {
        let mut slots = Vec::new();
        {
            let mut budget = self.budget();
            while let Some((namespace, waits, give)) = budget.next() {
                slots.push((give, WakeSlot { wakes: self.clone(), namespace, waits }));
            }
        }
        for (give, slot) in slots {
            // An error: who waited has left. Its slot is given to another as it is dropped.
            drop(give.send(slot));
        }
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for a random moment, drawn anew for each wake without a waiting request.
pub async fn jitter() {
    let part = Nonce::fresh().0 % 1000;
    let wait = JITTER.mul_f64(f64::from(u16::try_from(part).unwrap_or_default()) / 1000.0);
    #[expect(clippy::disallowed_methods, reason = "wakes that no request waits for are spread over time")]
    sleep_until(Instant::now() + wait).await;
}

// === impl Budget ===

impl Budget {
    /// Takes a slot for the next one that waits, if there is one.
    fn next(&mut self) -> Option<(Arc<str>, WakeFor, oneshot::Sender<WakeSlot>)> {
        let all = self.under_way(WakeFor::Request) + self.under_way(WakeFor::Failover);
        if all >= self.limit {
            return None;
        }
        for waits in [WakeFor::Request, WakeFor::Failover] {
            if waits == WakeFor::Failover && self.under_way(WakeFor::Failover) >= self.limit.div_ceil(2) {
                return None;
            }
            for share in self.namespaces.values_mut() {
                share.waiting[waits as usize].retain(|give| !give.is_closed());
            }
            let may = self.namespaces.iter_mut().filter(|(_, share)| share.may(waits));
            let Some((namespace, share)) = may.min_by_key(|(_, share)| (share.count(), share.last)) else {
                continue;
            };
            let give = share.waiting[waits as usize].pop_front()?;
            share.under_way[waits as usize] += 1;
            self.assigned += 1;
            share.last = self.assigned;
            return Some((namespace.clone(), waits, give));
        }
        None
    }

    fn under_way(&self, waits: WakeFor) -> usize {
        self.namespaces.values().map(|share| share.under_way[waits as usize]).sum()
    }
}

// === impl Share ===

impl Share {
    fn count(&self) -> usize {
        self.under_way.iter().sum()
    }

    fn may(&self, waits: WakeFor) -> bool {
        let room = match waits {
            WakeFor::Request => self.count() < self.limit,
            WakeFor::Failover => {
                self.count() < self.limit && self.under_way[waits as usize] < self.limit.div_ceil(2)
            }
        };
        room && !self.waiting[waits as usize].is_empty()
    }
}

// === impl WakeSlot ===

impl Drop for WakeSlot {
    fn drop(&mut self) {
        {
            let mut budget = self.wakes.budget();
            if let Some(share) = budget.namespaces.get_mut(&self.namespace) {
                share.under_way[self.waits as usize] -= 1;
                if share.count() == 0 && share.waiting.iter().all(VecDeque::is_empty) {
                    budget.namespaces.remove(&mem::take(&mut self.namespace));
                }
            }
        }
        self.wakes.give();
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::{JoinHandle, yield_now};

    use super::*;

    /// Somebody asks for a slot, and has begun to wait when this returns.
    async fn asks(
        wakes: &Wakes,
        namespace: &'static str,
        limit: usize,
        waits: WakeFor,
    ) -> JoinHandle<WakeSlot> {
        let wakes = wakes.clone();
        let asks = tokio::spawn(async move { wakes.slot(namespace, limit, waits).await });
        yield_now().await;
        asks
    }

    async fn served(asks: &[JoinHandle<WakeSlot>]) -> Vec<bool> {
        for _ in 0..10 {
            yield_now().await;
        }
        asks.iter().map(JoinHandle::is_finished).collect()
    }

    #[tokio::test]
    async fn never_more_than_the_budget_and_all_in_the_end() {
        let wakes = Wakes::new(3);
        let mut waiting = Vec::new();
        for _ in 0..10 {
            waiting.push(asks(&wakes, "a", 100, WakeFor::Request).await);
        }
        for round in 0..10 {
            let slots = served(&waiting).await.iter().filter(|served| **served).count();
            assert_eq!(slots, 3.min(10 - round));
            assert_eq!(wakes.under_way(), slots);
            // In the order in which they came.
            drop(waiting.remove(0).await.unwrap());
        }
        assert_eq!(wakes.under_way(), 0);
    }

    #[tokio::test]
    async fn one_namespace_does_not_keep_another_waiting() {
        let wakes = Wakes::new(4);
        let mut first = Vec::new();
        for _ in 0..100 {
            first.push(asks(&wakes, "a", 100, WakeFor::Request).await);
        }
        let second =
            [asks(&wakes, "b", 100, WakeFor::Request).await, asks(&wakes, "b", 100, WakeFor::Request).await];
        drop(first.remove(0).await.unwrap());
        assert_eq!(served(&second).await, [true, false]);
        drop(first.remove(0).await.unwrap());
        assert_eq!(served(&second).await, [true, true]);
        // And its own limit.
        let limited =
            [asks(&wakes, "c", 1, WakeFor::Request).await, asks(&wakes, "c", 1, WakeFor::Request).await];
        drop(first.remove(0).await.unwrap());
        drop(first.remove(0).await.unwrap());
        assert_eq!(served(&limited).await, [true, false]);
    }

    #[tokio::test]
    async fn a_wake_with_a_waiting_request_goes_first() {
        let wakes = Wakes::new(4);
        let mut paced = Vec::new();
        for _ in 0..10 {
            paced.push(asks(&wakes, "a", 100, WakeFor::Failover).await);
        }
        // Half of the slots.
        assert_eq!(served(&paced).await.iter().filter(|served| **served).count(), 2);
        let mut requests = Vec::new();
        for _ in 0..3 {
            requests.push(asks(&wakes, "a", 100, WakeFor::Request).await);
        }
        assert_eq!(served(&requests).await, [true, true, false]);
        // The next slot is the request's, though others have waited longer.
        drop(paced.remove(0).await.unwrap());
        assert_eq!(served(&requests).await, [true, true, true]);
        assert_eq!(served(&paced).await.iter().filter(|served| **served).count(), 1);
    }

    #[tokio::test]
    async fn a_waiter_that_leaves_keeps_no_place() {
        let wakes = Wakes::new(1);
        let first = asks(&wakes, "a", 1, WakeFor::Request).await;
        let (left, stays) =
            (asks(&wakes, "a", 1, WakeFor::Request).await, asks(&wakes, "b", 1, WakeFor::Failover).await);
        left.abort();
        assert!(left.await.unwrap_err().is_cancelled());
        drop(first.await.unwrap());
        drop(stays.await.unwrap());
        // A slot that was assigned, and never taken.
        let unused = asks(&wakes, "a", 1, WakeFor::Request).await;
        unused.abort();
        drop(unused.await);
        assert_eq!(wakes.under_way(), 0);
        drop(wakes.slot("a", 1, WakeFor::Failover).await);
    }
}
