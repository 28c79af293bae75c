//! The Lease `scaler-autoscaler` in the daemons' own namespace: does what [`Election`] orders.

use std::{future::pending, time::Duration};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube_watch::{Event, Watch};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    Shared,
    election::{Election, Order, Timing, Watching},
};
use crate::cluster::OwnNamespace;

/// The Lease's name.
pub(super) const NAME: &str = "scaler-autoscaler";

/// How long giving up may be tried: then the next one has to wait until the Lease has run out.
const GIVING_UP: Duration = Duration::from_secs(3);

/// The lead, renewed by a task until it is lost, released or dropped.
pub(super) struct Kept {
    release: oneshot::Sender<After>,
    task: AbortOnDropHandle<()>,
}

/// The successor of this process as leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// The next candidate.
    Next,
    /// None: the Lease is deleted.
    Nobody,
}

struct Candidate {
    own: OwnNamespace,
    election: Election,
    /// As it was last seen, if there is one: what is written keeps what others put on it.
    lease: Option<Lease>,
    watch: Option<Watch<Lease>>,
    status: Shared,
}

/// Waits until this process is the leader, and renews the Lease from then on. `lost` is cancelled when it no longer is.
pub(super) async fn acquire(
    own: &OwnNamespace,
    timing: Timing,
    status: Shared,
    lost: CancellationToken,
) -> Kept {
    let election = Election::new(own.incarnation.clone(), timing);
    let mut candidate = Candidate { own: own.clone(), election, lease: None, watch: None, status };
    while candidate.election.leads_until(Instant::now()).is_none() {
        candidate.step().await;
    }
    candidate.status.change(|status| status.is_leader = true);
    let (release, released) = oneshot::channel();
    let task = AbortOnDropHandle::new(tokio::spawn(candidate.keep(lost, released)));
    Kept { release, task }
}

// === impl Kept ===

impl Kept {
    pub(super) async fn release(self, after: After) {
        // Fails when the lead is lost already.
        let _ = self.release.send(after);
        let _ = self.task.await;
    }
}

// === impl Candidate ===

impl Candidate {
    async fn keep(mut self, lost: CancellationToken, mut released: oneshot::Receiver<After>) {
        while let Some(until) = self.election.leads_until(Instant::now()) {
            tokio::select! {
                biased;
                after = &mut released => {
                    self.give_up().await;
                    if after == Ok(After::Nobody) {
                        self.remove().await;
                    }
                    break;
                }
                // Late is lost, whatever comes of the call.
                _ = timeout_at(until, self.step()) => {}
            }
        }
        self.status.change(|status| status.is_leader = false);
        lost.cancel();
    }

    /// Does what is to be done next.
    async fn step(&mut self) {
        match self.election.next(Instant::now(), &wall()) {
            Order::Read => self.read().await,
            Order::Write(spec) => self.write(spec).await,
            Order::Wait(until, watching) => self.wait(until, watching).await,
        }
        let holder = self.election.holder().map(|(holder, since)| (holder.to_owned(), since.cloned()));
        self.status.change(|status| {
            let (leader, since) = holder.unzip();
            if leader.is_some() && leader != status.leader {
                tracing::info!(leader, "leader changed");
            }
            status.leader = leader;
            status.since = since.flatten().map(|since| since.0.to_string());
        });
    }

    async fn read(&mut self) {
        self.watch = None;
        match self.own.call(self.own.leases().get_opt(NAME)).await {
            Ok(lease) => self.observe(lease),
            Err(error) => self.failed("get", error),
        }
    }

    async fn write(&mut self, spec: LeaseSpec) {
        self.watch = None;
        let began = Instant::now();
        let leases = self.own.leases();
        let (verb, written) = match &self.lease {
            Some(lease) => {
                let lease = Lease { spec: Some(spec), ..lease.clone() };
                ("update", self.own.call(leases.replace(NAME, &PostParams::default(), &lease)).await)
            }
            None => {
                let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
                let lease = Lease { metadata, spec: Some(spec) };
                ("create", self.own.call(leases.create(&PostParams::default(), &lease)).await)
            }
        };
        match written {
            Ok(lease) => {
                self.election.wrote(began, Instant::now(), lease.spec.clone().unwrap_or_default());
                self.lease = Some(lease);
                self.fine();
            }
            // Replaced or created by another one meanwhile, or removed.
            Err(kube::Error::Api(status)) if status.code == 409 || status.is_not_found() => {
                self.election.conflict(Instant::now());
            }
            Err(error) => self.failed(verb, error),
        }
    }

    async fn wait(&mut self, until: Instant, watching: Watching) {
        let changed = async {
            match watching {
                Watching::Yes => self.watch().next().await,
                Watching::No => pending().await,
            }
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "a Lease runs out, and is to be renewed, by time alone"
        )]
        let event = tokio::select! {
            event = changed => event,
            () = sleep_until(until) => return,
        };
        match event {
            Ok(Event::Apply(lease)) => self.observe(Some(lease)),
            Ok(Event::Delete(_)) => self.observe(None),
            Ok(Event::Bookmark) => {}
            // The server no longer has the version that was read. A list would say less than a read.
            Ok(Event::Init | Event::Page { .. }) => {
                self.watch = None;
                self.election.failed(Instant::now());
            }
            Err(error) => {
                self.watch = None;
                self.failed("watch", error.into_inner());
            }
        }
    }

    /// Follows the Lease from the version that was last seen. An event that was not awaited is the next one.
    fn watch(&mut self) -> &mut Watch<Lease> {
        self.watch.get_or_insert_with(|| {
            let version = self.lease.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
            let only = ListParams::default().fields(&format!("metadata.name={NAME}"));
            Watch::resume(self.own.leases(), only, version.unwrap_or_default())
        })
    }

    fn observe(&mut self, lease: Option<Lease>) {
        let spec = lease.as_ref().map(|lease| lease.spec.clone().unwrap_or_default());
        self.election.observe(Instant::now(), spec);
        self.lease = lease;
        self.fine();
    }

    fn fine(&self) {
        self.status.change(|status| {
            if status.error.take().is_some() {
                tracing::info!("the autoscaler's Lease can be reached again");
            }
        });
    }

    fn failed(&mut self, verb: &'static str, error: kube::Error) {
        self.election.failed(Instant::now());
        // Servers end watches as they like: no more than a read is missing.
        if verb == "watch" && !matches!(&error, kube::Error::Api(status) if status.is_forbidden()) {
            tracing::debug!(%error, "watching the autoscaler's Lease: to be read anew");
            return;
        }
        let why = self.own.error(verb, "leases", error).to_string();
        self.status.change(|status| {
            if status.error.as_ref() != Some(&why) {
                tracing::warn!(
                    lease = NAME,
                    reason = why,
                    is_leader = status.is_leader,
                    "cannot access the autoscaler's Lease; retrying"
                );
            }
            status.error = Some(why);
        });
    }

    /// Deletes the Lease, if no candidate has taken it since it was given up.
    async fn remove(&mut self) {
        self.watch = None;
        let Some(lease) = self.lease.take() else { return };
        let (uid, resource_version) = (lease.metadata.uid, lease.metadata.resource_version);
        let preconditions = Some(Preconditions { uid, resource_version });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        match self.own.call(self.own.leases().delete(NAME, &params)).await {
            Ok(_) => tracing::info!(lease = NAME, "deleted the autoscaler's Lease"),
            Err(error) => {
                let error = self.own.error("delete", "leases", error);
                tracing::warn!(lease = NAME, reason = %error, "cannot delete the autoscaler's Lease");
            }
        }
    }

    /// Removes the Lease's holder.
    async fn give_up(&mut self) {
        // The result of a call in progress is not known.
        self.election.doubt();
        let given_up = timeout(GIVING_UP, async {
            loop {
                if !self.election.is_fresh() {
                    if let Order::Wait(pause, _) = self.election.next(Instant::now(), &wall()) {
                        self.wait(pause, Watching::No).await;
                    }
                    self.read().await;
                    continue;
                }
                match self.election.given_up(&wall()) {
                    Some(spec) => self.write(spec).await,
                    None => return,
                }
            }
        });
        if given_up.await.is_err() {
            tracing::warn!(
                lease = NAME,
                "cannot release the Lease: the next autoscaler becomes the leader when it has expired"
            );
        }
    }
}

fn wall() -> MicroTime {
    MicroTime(Timestamp::now())
}
