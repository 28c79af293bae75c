//! What a test orders to go wrong.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use crate::{
    access::User,
    http::{failure::Failure, request::Target},
};

/// Which requests are meant; what is not said fits all.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    user: Option<String>,
    verb: Option<String>,
    resource: Option<String>,
}

/// What a request is refused with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// 409: another client changed the object.
    Conflict,
    /// 429 with so many seconds in `Retry-After`.
    TooManyRequests(u32),
    /// 500.
    InternalError,
    /// 503.
    Unavailable,
}

/// What goes wrong, as ordered by a test.
#[derive(Debug)]
pub struct Faults {
    orders: Mutex<Vec<Order>>,
    next: AtomicU64,
    /// Counts up at each order to drop watches, and whose.
    drops: watch::Sender<(u64, Filter)>,
    /// Counts up whenever the stalled ones change.
    stalls: watch::Sender<u64>,
    outages: watch::Sender<usize>,
}

/// A fault that lasts until this is dropped.
#[derive(Debug)]
#[must_use = "the fault ends when this is dropped"]
pub struct Fault {
    faults: Arc<Faults>,
    /// `None`: an outage.
    id: Option<u64>,
}

#[derive(Debug)]
struct Order {
    id: u64,
    filter: Filter,
    what: What,
}

#[derive(Debug)]
enum What {
    Latency(Duration),
    Refuse(Refusal, u32),
    RefuseAfter(Refusal, u32),
    Stall,
}

/// What a request meets.
pub(crate) enum Ordered {
    Nothing,
    Refuse(Failure),
}

// === impl Filter ===

impl Filter {
    /// Every request.
    pub fn any() -> Self {
        Self::default()
    }

    /// Those of a user: `system:serviceaccount:NAMESPACE:NAME`, or a [`User`].
    pub fn user(mut self, user: impl ToString) -> Self {
        self.user = Some(user.to_string());
        self
    }

    /// Those of a verb, as RBAC names it: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`;
    /// `create,patch` is both. Dry runs are `dry-run` whatever their verb is.
    pub fn verb(mut self, verb: &str) -> Self {
        self.verb = Some(verb.to_owned());
        self
    }

    /// Those of a resource, as RBAC names it: `deployments`, or `deployments/scale`; `deployments/*` is both.
    pub fn resource(mut self, resource: &str) -> Self {
        self.resource = Some(resource.to_owned());
        self
    }

    pub(crate) fn fits(&self, user: &str, verb: &str, resource: &str) -> bool {
        let resource_fits = |wanted: &String| match wanted.strip_suffix("/*") {
            Some(base) => {
                resource == base || resource.strip_prefix(base).is_some_and(|rest| rest.starts_with('/'))
            }
            None => wanted == resource,
        };
        self.user.as_ref().is_none_or(|wanted| wanted == user)
            && self.verb.as_ref().is_none_or(|wanted| wanted.split(',').any(|one| one == verb))
            && self.resource.as_ref().is_none_or(resource_fits)
    }
}

// === impl Refusal ===

impl Refusal {
    fn failure(self) -> Failure {
        match self {
            Self::Conflict => Failure::ordered_conflict(),
            Self::TooManyRequests(seconds) => Failure::too_many_requests(seconds),
            Self::InternalError => Failure::internal("ordered by a test"),
            Self::Unavailable => Failure::unavailable(),
        }
    }
}

// === impl Faults ===

impl Faults {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            orders: Mutex::default(),
            next: AtomicU64::default(),
            drops: watch::Sender::new((0, Filter::any())),
            stalls: watch::Sender::new(0),
            outages: watch::Sender::new(0),
        })
    }

    /// Each such request waits so long before anything is done for it.
    pub fn latency(self: &Arc<Self>, filter: Filter, latency: Duration) -> Fault {
        self.order(filter, What::Latency(latency))
    }

    /// The next `count` such requests are refused, and nothing is done for them.
    pub fn refuse(self: &Arc<Self>, filter: Filter, count: u32, refusal: Refusal) -> Fault {
        self.order(filter, What::Refuse(refusal, count))
    }

    /// `count` such requests pass, and all after them are refused: for the cluster the client has crashed there.
    pub fn refuse_after(self: &Arc<Self>, filter: Filter, count: u32, refusal: Refusal) -> Fault {
        self.order(filter, What::RefuseAfter(refusal, count))
    }

    /// Such watches, those that run and those that begin, are sent nothing, not even bookmarks, and stay open; when this ends they get what they missed.
    /// Filters by user and resource; the verb is `watch`.
    pub fn stall_watches(self: &Arc<Self>, filter: Filter) -> Fault {
        let fault = self.order(filter, What::Stall);
        self.stalls.send_modify(|count| *count += 1);
        fault
    }

    /// Such watches end now, where they stand.
    pub fn drop_watches(&self, filter: Filter) {
        self.drops.send_modify(|drops| *drops = (drops.0 + 1, filter));
    }

    /// All connections are cut, new ones are refused.
    pub fn outage(self: &Arc<Self>) -> Fault {
        self.outages.send_modify(|count| *count += 1);
        Fault { faults: Arc::clone(self), id: None }
    }

    /// How many more requests the orders to refuse are waiting for.
    pub fn refusals_left(&self) -> u32 {
        let orders = self.orders();
        orders.iter().map(|order| if let What::Refuse(_, left) = order.what { left } else { 0 }).sum()
    }

    pub(crate) fn outages(&self) -> watch::Receiver<usize> {
        self.outages.subscribe()
    }

    pub(crate) fn drops(&self) -> watch::Receiver<(u64, Filter)> {
        self.drops.subscribe()
    }

    pub(crate) fn stalls(&self) -> watch::Receiver<u64> {
        self.stalls.subscribe()
    }

    /// Whether such a watch is to be silent.
    pub(crate) fn stalled(&self, user: &str, resource: &str) -> bool {
        let stalls =
            |order: &Order| matches!(order.what, What::Stall) && order.filter.fits(user, "watch", resource);
        self.orders().iter().any(stalls)
    }

    pub(crate) async fn meet(&self, user: &User, target: &Target) -> Ordered {
        let (user, resource) = (user.to_string(), target.full_resource());
        let (mut wait, mut refusal) = (Duration::ZERO, None);
        for order in self
            .orders()
            .iter_mut()
            .filter(|order| order.filter.fits(&user, target.counted_verb(), &resource))
        {
            match &mut order.what {
                What::Latency(latency) => wait += *latency,
                What::Refuse(with, left) if *left > 0 && refusal.is_none() => {
                    *left -= 1;
                    refusal = Some(*with);
                }
                What::RefuseAfter(_, left) if *left > 0 => *left -= 1,
                What::RefuseAfter(with, _) => refusal = refusal.or(Some(*with)),
                What::Refuse(..) | What::Stall => {}
            }
        }
        if !wait.is_zero() {
            #[expect(clippy::disallowed_methods, reason = "the latency is what was ordered")]
            tokio::time::sleep(wait).await;
        }
        refusal.map_or(Ordered::Nothing, |refusal| Ordered::Refuse(refusal.failure()))
    }

    fn order(self: &Arc<Self>, filter: Filter, what: What) -> Fault {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.orders().push(Order { id, filter, what });
        Fault { faults: Arc::clone(self), id: Some(id) }
    }

    fn orders(&self) -> MutexGuard<'_, Vec<Order>> {
        self.orders.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

// === impl Fault ===

impl Fault {
    /// The fault ends.
    pub fn end(self) {}
}

impl Drop for Fault {
    fn drop(&mut self) {
        match self.id {
            Some(id) => {
                self.faults.orders().retain(|order| order.id != id);
                self.faults.stalls.send_modify(|count| *count += 1);
            }
            None => self.faults.outages.send_modify(|count| *count -= 1),
        }
    }
}
