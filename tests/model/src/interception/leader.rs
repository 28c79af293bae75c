//! An autoscaler, what it knows, and what it has under way.

use scaler_types::{
    Backend, Nonce, Record, Version,
    protocol::{Drain, Seen},
};

use super::world::{Dlxs, PropagationDelay, Service, Slice};

/// One autoscaler. After a crash another one is there at once.
#[derive(Clone, Debug, Default, Hash)]
pub struct Autoscaler {
    /// What it last observed of the interception, to decide on.
    pub observed: Option<Observed>,
    /// The call of its plugin that changes the interception, and its write.
    pub call: Option<Call>,
    /// Since when it has seen that the backend is both and the pods are ready.
    pub own: Option<BothSince>,
    /// Since when it has seen that the backend is the DLXs.
    pub intercepted: Option<InterceptedSince>,
    /// The drain attempt under way.
    pub attempt: Option<Attempt>,
}

/// The interception as it was observed.
#[derive(Clone, Debug, Hash)]
pub struct Observed {
    /// The Service.
    pub service: Service,
    /// Our slice.
    pub slice: Option<Slice>,
    /// The pods are ready.
    pub ready: bool,
    /// The controller's slice names them.
    pub own: bool,
    /// It is requested.
    pub asked: bool,
    /// The DLXs that serve: only with the fault that goes by this.
    pub serving: Option<Dlxs>,
    /// The workload.
    pub workload: Seen,
}

/// Since when the backend is both, and the pods are ready.
#[derive(Clone, Debug, Hash)]
pub struct BothSince {
    /// The workload it saw all the while.
    pub version: Version,
    /// Whether every node has followed since.
    pub delay: PropagationDelay,
}

/// Since when the backend is the DLXs.
#[derive(Clone, Debug, Hash)]
pub struct InterceptedSince {
    /// The Service it saw all the while.
    pub service: Nonce,
    /// Whether every node has followed since.
    pub delay: PropagationDelay,
    /// Whether what had come before has ended, and is outside every window.
    pub covered: bool,
}

/// A change of the interception under way.
#[derive(Clone, Debug, Hash)]
pub struct Call {
    /// The new backend; `None`: the slice is only brought up to date.
    pub to: Option<Backend>,
    /// What it does next.
    pub at: CallStep,
    /// The Service as it was read.
    pub service: Service,
    /// The slice's version that must stand; `None`: there must be none.
    pub slice: Option<Nonce>,
    /// The DLXs to name.
    pub names: Dlxs,
    /// The controller's slice names the pods, as far as its plugin has seen.
    pub own: bool,
    /// The versions of Service and slice that it was decided on.
    pub seen: (Nonce, Option<Nonce>),
    /// It was under way when this autoscaler's clock of the pods began.
    pub before: [bool; 2],
}

/// One request of a call that changes an interception.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum CallStep {
    /// Our slice is written, on the version that was read.
    Slice,
    /// The key is added, on the Service's version that was read.
    Key,
    /// The Service is read, whose key is to be removed.
    ReadService,
    /// The workload is read, before the key is removed.
    ReadWorkload,
    /// The key is removed, if its value is the one that was read.
    NoKey,
    /// Service and slice are read, before our slice is removed.
    ReadRemoval,
    /// Our slice is removed, on the version that was read.
    NoSlice,
}

/// One drain attempt.
#[derive(Clone, Debug, Hash)]
pub struct Attempt {
    /// The protocol's side.
    pub drain: Drain,
    /// Its nonce.
    pub nonce: Nonce,
    /// The DLXs that have yet to answer.
    pub asked: Dlxs,
    /// In traffic mode `when-asleep`: the version of the Service that the nodes follow.
    pub service: Option<Nonce>,
    /// How far the switch is; `None`: it was not ordered.
    pub switch: Option<Switch>,
    /// The commit.
    pub commit: Option<Commit>,
}

/// How far a switch is.
#[derive(Clone, Debug, Hash)]
pub enum Switch {
    /// The backend is to be the DLXs.
    Ordered,
    /// The backend is the DLXs.
    Led(PropagationDelay),
    /// The sample is being taken; whether it was idle so far.
    Sampling(bool),
    /// It was idle.
    Sampled,
}

/// A commit.
#[derive(Clone, Debug, Hash)]
pub struct Commit {
    /// The workload's version that must stand.
    pub expected: Version,
    /// The record.
    pub record: Record,
    /// The version of the Service in its plugin's view when it began.
    pub service: Nonce,
    /// The nonce of its drain attempt.
    pub nonce: Nonce,
    /// What it does next.
    pub at: CommitStep,
}

/// One request of a commit.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum CommitStep {
    /// The key is written anew, with the drain attempt's nonce.
    Stamp,
    /// The slices are read.
    Slices,
    /// Record and scale are written.
    Write,
}

/// A write without an author.
#[derive(Clone, Debug, Hash)]
pub enum Orphan {
    /// Of an interception; nothing comes after it.
    Call(Call),
    /// The first or the last of a commit; nothing comes after it.
    Commit(Commit),
}
