//! The leader election, as one candidate sees the Lease: the next step, given the results of the steps before.
//! Pure: the time is given, and only ever this process's own monotonic clock.
//!
//! Every write of the Lease is a compare-and-set, so only one wins. The winner is the leader for [`Timing::deadline`] from the
//! moment it *began* that write. Another one takes over when it has not seen the Lease change for [`Timing::lease`],
//! counted from when it *saw* it change, which is later. As the first is shorter, no two lead at a time, however long
//! calls take, as long as no clock runs half as fast again as another.

use std::time::Duration;

use k8s_openapi::{api::coordination::v1::LeaseSpec, apimachinery::pkg::apis::meta::v1::MicroTime};
use tokio::time::Instant;

/// How long what takes. The defaults are those of Kubernetes' own controllers.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long others wait for a renewal before they take the Lease.
    pub lease: Duration,
    /// How long after one renewal the next is due.
    pub renew: Duration,
    /// How long this process is the leader after the last renewal.
    pub deadline: Duration,
    /// The pause after a call that failed.
    pub pause: Duration,
}

/// One candidate, leading or not.
#[derive(Debug)]
pub(crate) struct Election {
    me: String,
    timing: Timing,
    /// The Lease as it was last seen, and since when it has been so.
    seen: Option<Seen>,
    /// The last state seen is still current, as far as known: a write may be based on it.
    fresh: bool,
    /// When the last renewal that succeeded was begun.
    renewed: Option<Instant>,
    /// No call before.
    not_before: Option<Instant>,
    /// The last write was overtaken.
    overtaken: bool,
}

/// The Lease, or that there is none.
#[derive(Debug)]
struct Seen {
    spec: Option<LeaseSpec>,
    changed: Instant,
}

/// The next step.
#[derive(Debug, PartialEq)]
pub(crate) enum Order {
    /// Read the Lease.
    Read,
    /// Write it so, if it still is as it was last seen: replace it, or create it where there was none.
    Write(LeaseSpec),
    /// Nothing until then. `Watching`: unless it is seen to change.
    Wait(Instant, Watching),
}

/// Whether a change of the Lease matters meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watching {
    /// It does.
    Yes,
    /// It does not.
    No,
}

// === impl Timing ===

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            renew: Duration::from_secs(5),
            deadline: Duration::from_secs(10),
            pause: Duration::from_secs(1),
        }
    }
}

// === impl Election ===

impl Election {
    /// A candidate of that name, which no other process has or had.
    pub(crate) fn new(me: String, timing: Timing) -> Self {
        Self { me, timing, seen: None, fresh: false, renewed: None, not_before: None, overtaken: false }
    }

    /// Until when this process is the leader, if it is.
    pub(crate) fn leads_until(&self, now: Instant) -> Option<Instant> {
        let until = self.renewed? + self.timing.deadline;
        (now < until).then_some(until)
    }

    /// The Lease's holder, as last seen.
    pub(crate) fn holder(&self) -> Option<(&str, Option<&MicroTime>)> {
        let spec = self.seen.as_ref()?.spec.as_ref()?;
        Some((holder(spec)?, spec.acquire_time.as_ref()))
    }

    /// The next step. `wall`: for people who read the Lease; no process compares it.
    pub(crate) fn next(&self, now: Instant, wall: &MicroTime) -> Order {
        if let Some(pause) = self.not_before.filter(|pause| now < *pause) {
            return Order::Wait(pause, Watching::No);
        }
        let Some(seen) = self.seen.as_ref().filter(|_| self.fresh) else { return Order::Read };
        let held = seen.spec.as_ref().and_then(holder);
        if held == Some(&self.me) {
            // Not leading, and still the holder: a renewal came too late, or its answer was lost.
            let due = self.leads_until(now).and(self.renewed).map(|renewed| renewed + self.timing.renew);
            return match due {
                Some(due) if now < due => Order::Wait(due, Watching::No),
                _ => Order::Write(self.mine(seen.spec.as_ref(), wall)),
            };
        }
        match (held, &seen.spec) {
            (Some(_), Some(spec)) => {
                let free = seen.changed + self.lasts(spec);
                match now < free {
                    true => Order::Wait(free, Watching::Yes),
                    false => Order::Write(self.mine(Some(spec), wall)),
                }
            }
            (_, spec) => Order::Write(self.mine(spec.as_ref(), wall)),
        }
    }

    /// The Lease was read, or seen to change: it is so, or there is none.
    pub(crate) fn observe(&mut self, now: Instant, spec: Option<LeaseSpec>) {
        let mine = spec.as_ref().and_then(holder) == Some(&self.me);
        // Another holder is the leader now, or was.
        self.renewed = self.renewed.filter(|_| mine);
        match &self.seen {
            Some(seen) if seen.spec == spec => {}
            _ => self.seen = Some(Seen { spec, changed: now }),
        }
        self.fresh = true;
        self.not_before = None;
    }

    /// The write that was begun then succeeded: the Lease is so now.
    pub(crate) fn wrote(&mut self, began: Instant, now: Instant, spec: LeaseSpec) {
        self.renewed = (holder(&spec) == Some(&self.me)).then_some(began);
        self.seen = Some(Seen { spec: Some(spec), changed: now });
        self.fresh = true;
        self.not_before = None;
        self.overtaken = false;
    }

    /// Another candidate wrote first. A candidate that is overtaken repeatedly lets others go first.
    pub(crate) fn conflict(&mut self, now: Instant) {
        self.fresh = false;
        self.not_before = self.overtaken.then(|| now + self.timing.pause);
        self.overtaken = true;
    }

    /// The last state seen may be out of date.
    pub(crate) fn doubt(&mut self) {
        self.fresh = false;
        self.not_before = None;
    }

    /// The last state seen is still current, as far as is known.
    pub(crate) fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// A call failed, or a watch ended: what it did, or what happened since, is not known.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.fresh = false;
        self.not_before = Some(now + self.timing.pause);
    }

    /// The Lease given up, as the next candidate takes it at once; `None`: it is not this process's.
    pub(crate) fn given_up(&self, wall: &MicroTime) -> Option<LeaseSpec> {
        let spec = self.seen.as_ref()?.spec.as_ref()?;
        (holder(spec)? == self.me).then(|| LeaseSpec {
            holder_identity: Some(String::new()),
            renew_time: Some(wall.clone()),
            ..spec.clone()
        })
    }

    /// The Lease with this process as its holder.
    fn mine(&self, before: Option<&LeaseSpec>, wall: &MicroTime) -> LeaseSpec {
        let before = before.cloned().unwrap_or_default();
        let again = holder(&before) == Some(&self.me);
        LeaseSpec {
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: Some(
                i32::try_from(self.timing.lease.as_secs()).unwrap_or(i32::MAX).max(1),
            ),
            acquire_time: before.acquire_time.clone().filter(|_| again).or_else(|| Some(wall.clone())),
            renew_time: Some(wall.clone()),
            lease_transitions: Some(
                before.lease_transitions.unwrap_or(-1).saturating_add(i32::from(!again)).max(0),
            ),
            ..before
        }
    }

    /// How long a Lease of others lasts: what its holder says, and never shorter than ours.
    fn lasts(&self, spec: &LeaseSpec) -> Duration {
        let said = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0);
        self.timing.lease.max(Duration::from_secs(said))
    }
}

fn holder(spec: &LeaseSpec) -> Option<&str> {
    spec.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

#[cfg(test)]
mod tests;
