//! One autoscaler is the leader. Losing leadership ends its writing at once; what still slips through is refused by the resources'
//! versions, which every write names.

mod election;
mod file;
mod lease;

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::{cluster::OwnNamespace, coordination::Coordinator};
pub use election::Timing;

/// Is a standby until this process is the leader, any number of times.
pub struct Leader {
    how: How,
    timing: Timing,
    status: Shared,
}

enum How {
    File(PathBuf),
    Lease(OwnNamespace),
}

/// This process is the leader until that is lost, released or dropped, or the process ends.
pub struct Leadership {
    lost: CancellationToken,
    held: Held,
    status: Shared,
}

enum Held {
    File(file::Lock),
    Lease(lease::Kept),
}

/// The leader, as far as this process knows.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    /// This process is the leader.
    pub is_leader: bool,
    /// The leader's name. By files only the leader itself knows it.
    pub leader: Option<String>,
    /// Since when, by the leader's clock.
    pub since: Option<String>,
    /// The Lease, as namespace/name.
    pub lease: Option<String>,
    /// Why this process does not know the leader, or cannot lead.
    pub error: Option<String>,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Status>>);

// === impl Leader ===

impl Leader {
    /// A candidate.
    pub fn new(coordination: &Coordinator, timing: Timing) -> Self {
        let (how, lease) = match coordination {
            Coordinator::Files(state_dir) => (How::File(state_dir.clone()), None),
            Coordinator::Leases(leases) => {
                let own = leases.own_namespace().clone();
                let lease = format!("{}/{}", own.namespace, lease::NAME);
                (How::Lease(own), Some(lease))
            }
        };
        let status = Shared::default();
        status.change(|status| status.lease = lease);
        Self { how, timing, status }
    }

    /// Waits (without polling) until this process is the leader. Dropping the future gives up waiting.
    ///
    /// # Errors
    ///
    /// By files: the lock file cannot be opened or locked; the message names it. By Lease it waits until the API can be
    /// reached and allows it; [`Status::error`] says why it cannot.
    pub async fn lead(&self) -> io::Result<Leadership> {
        let lost = CancellationToken::new();
        let held = match &self.how {
            How::File(state_dir) => {
                let lock = file::acquire(state_dir).await?;
                self.status.change(|status| status.is_leader = true);
                Held::File(lock)
            }
            How::Lease(own) => {
                let status = self.status.clone();
                Held::Lease(lease::acquire(own, self.timing, status, lost.clone()).await)
            }
        };
        Ok(Leadership { lost, held, status: self.status.clone() })
    }

    /// The leader now.
    pub fn status(&self) -> impl Fn() -> Status + Send + Sync + 'static {
        let status = self.status.clone();
        move || status.get()
    }
}

// === impl Leadership ===

impl Leadership {
    /// Cancelled when this process is no longer the leader: it must not begin to write.
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Gives the lead up, so that the next one has it at once. To be called when nothing of this process writes any more.
    pub async fn release(self) {
        match self.held {
            Held::File(lock) => drop(lock),
            Held::Lease(kept) => kept.release(lease::After::Next).await,
        }
        self.status.change(|status| status.is_leader = false);
    }

    /// Resigns for good: no process is to lead after this, and nothing is left in the cluster.
    pub async fn end(self) {
        match self.held {
            Held::File(lock) => drop(lock),
            Held::Lease(kept) => kept.release(lease::After::Nobody).await,
        }
        self.status.change(|status| status.is_leader = false);
    }
}

// === impl Shared ===

impl Shared {
    fn get(&self) -> Status {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
