//! An autoscaler, what it knows, and what it has under way.

use scaler_types::{
    Leads, Nonce, Row, Version,
    protocol::{Fence, Seen},
};

use super::world::{Dlxs, Grace, Service, Slice};

/// One autoscaler. After a crash another one is there at once.
#[derive(Clone, Debug, Default, Hash)]
pub struct Autoscaler {
    /// What it last saw of the route, to decide on.
    pub told: Option<Told>,
    /// The call of its plugin that changes the route, and its write.
    pub call: Option<Call>,
    /// Since when it has seen that the route leads to both and the pods are ready.
    pub own: Option<OwnSince>,
    /// Since when it has seen that the route leads to the DLXs.
    pub led: Option<LedSince>,
    /// The try under way.
    pub attempt: Option<Attempt>,
}

/// The route as it was told.
#[derive(Clone, Debug, Hash)]
pub struct Told {
    /// The Service.
    pub service: Service,
    /// Our slice.
    pub slice: Option<Slice>,
    /// The pods are ready.
    pub ready: bool,
    /// It is asked for.
    pub asked: bool,
    /// The DLXs that serve: only with the fault that goes by this.
    pub serving: Option<Dlxs>,
    /// The workload.
    pub workload: Seen,
}

/// Since when the route leads to both, and the pods are ready.
#[derive(Clone, Debug, Hash)]
pub struct OwnSince {
    /// The workload it saw all the while.
    pub version: Version,
    /// Whether everybody has followed since.
    pub grace: Grace,
}

/// Since when the route leads to the DLXs.
#[derive(Clone, Debug, Hash)]
pub struct LedSince {
    /// The Service it saw all the while.
    pub service: Nonce,
    /// Whether everybody has followed since.
    pub grace: Grace,
    /// Whether what had come before has ended, and is outside every window.
    pub covered: bool,
}

/// A change of the route under way.
#[derive(Clone, Debug, Hash)]
pub struct Call {
    /// Where it is to lead; `None`: the slice is only brought up to date.
    pub to: Option<Leads>,
    /// The write that is on its way.
    pub write: RouteWrite,
    /// The Service's version that must stand.
    pub service: Nonce,
    /// The slice's version that must stand; `None`: there must be none.
    pub slice: Option<Nonce>,
    /// The DLXs to name.
    pub names: Dlxs,
    /// It is a try's.
    pub switch: bool,
    /// It was under way when this autoscaler's clock of the pods began.
    pub before: [bool; 2],
}

/// One write of a route.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum RouteWrite {
    /// Our slice.
    Slice,
    /// The key is added, or given another value.
    Key,
    /// The key is removed.
    NoKey,
    /// Our slice is removed.
    NoSlice,
}

/// One try to put the resource to zero.
#[derive(Clone, Debug, Hash)]
pub struct Attempt {
    /// The protocol's side.
    pub fence: Fence,
    /// Its nonce.
    pub nonce: Nonce,
    /// The DLXs that have yet to answer.
    pub asked: Dlxs,
    /// The version of the Service that it goes by: the one on which it began, then the one that the switch wrote.
    pub service: Nonce,
    /// How far the switch is; `None`: it was not ordered.
    pub switch: Option<Switch>,
    /// The commit.
    pub commit: Option<Commit>,
}

/// How far a switch is.
#[derive(Clone, Debug, Hash)]
pub enum Switch {
    /// The route is to be written.
    Ordered,
    /// It leads to the DLXs.
    Led(Grace),
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
    /// The row.
    pub row: Row,
    /// The route was read once more, and the write is on its way.
    pub checked: bool,
}

/// A write without an author.
#[derive(Clone, Debug, Hash)]
pub enum Orphan {
    /// Of a route; nothing comes after it.
    Route(Call),
    /// Of a commit that had taken its last look at the route.
    Commit(Commit),
}

// === impl Call ===

impl Call {
    /// A change by nobody's try, with its first write.
    pub fn new(
        to: Option<Leads>,
        write: RouteWrite,
        service: Nonce,
        slice: Option<Nonce>,
        names: Dlxs,
    ) -> Self {
        Self { to, write, service, slice, names, switch: false, before: [false; 2] }
    }
}
