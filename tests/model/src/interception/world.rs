//! The state of the modelled world: one resource, its Service, and the nodes that follow it.

use std::hash::{Hash, Hasher};

use scaler_types::{
    Backend, Nonce,
    protocol::{Gate, Seen},
};

use super::leader::{Autoscaler, Call, Commit, CommitStep, Orphan, Switch};
use crate::canon::{self, Canon};

/// A set of DLXs, a bit for each incarnation.
pub type Dlxs = u8;

/// Everything there is, and what is under way.
#[derive(Clone, Debug)]
pub struct World {
    /// The workload: record, version and scale.
    pub workload: Seen,
    /// Its pods are ready.
    pub up: bool,
    /// It was a commit that scaled it to zero.
    pub committed: bool,
    /// Its user requests that its Service is intercepted.
    pub asked: bool,
    /// The Service.
    pub service: Service,
    /// Our slice on it.
    pub slice: Option<Slice>,
    /// The slice of the cluster's own controller names the pods.
    pub own: bool,
    /// A person stopped the pods or deleted a slice, or all DLXs in ours had died, and there has been no lasting endpoint since.
    pub forgiven: bool,
    /// The nodes that follow the slices.
    pub nodes: Vec<Node>,
    /// Requests that have reached a pod past every DLX.
    pub direct: Direct,
    /// The DLXs; `None`: no incarnation runs there now.
    pub dlxs: [Option<Dlx>; 2],
    /// The DLXs that ended in good order.
    pub ended: Dlxs,
    /// The autoscalers, each of which believes to be the leader.
    pub autoscalers: [Autoscaler; 2],
    /// Writes whose author is gone or has given up: they may still happen.
    pub orphans: Vec<Orphan>,
    /// What may still happen.
    pub left: Budget,
    /// Incarnations of DLXs so far.
    pub incarnations: u8,
    /// The last version and nonce given out. No part of a state's identity.
    pub names: u32,
}

/// What is ours on the Service.
#[derive(Clone, Debug, Hash)]
pub struct Service {
    /// The value of our key in the selector: [`INTERCEPTED`], or the nonce of the drain attempt whose commit wrote it anew.
    pub key: Option<Nonce>,
    /// Another one with every write.
    pub version: Nonce,
}

/// The key's value while no commit has written it anew.
pub const INTERCEPTED: Nonce = Nonce(1);

/// Our slice.
#[derive(Clone, Debug, Hash)]
pub struct Slice {
    /// The DLXs it names.
    pub names: Dlxs,
    /// Another one with every write.
    pub version: Nonce,
}

/// The endpoints of new connections.
#[derive(Clone, Copy, Debug, Default, Hash, PartialEq, Eq)]
pub struct View {
    /// The pods.
    pub own: bool,
    /// These DLXs.
    pub dlxs: Dlxs,
}

/// A node, or an ingress controller.
#[derive(Clone, Debug, Hash)]
pub struct Node {
    /// What it goes by.
    pub sees: View,
    /// The changes that it has yet to follow, in order.
    pub behind: Vec<View>,
}

/// The time that every node has to follow a change: it is over when the controller was through with what was there when it
/// began, and every node with what the controller had made of it.
#[derive(Clone, Debug, Hash)]
pub struct PropagationDelay {
    /// The controller is through.
    pub through: bool,
    /// Changes that each node has yet to follow.
    pub left: [u8; 2],
}

/// Requests at the pods that passed no DLX.
#[derive(Clone, Copy, Debug, Default, Hash)]
pub struct Direct {
    /// In flight, and seen by a sample that is taken now.
    pub seen: u8,
    /// Open connections between two requests.
    pub pooled: u8,
    /// In flight on a pooled connection, since after the sample that a commit waited for; in traffic mode `always`, on one of before it
    /// was intercepted.
    pub unseen: u8,
}

/// One incarnation of a DLX.
#[derive(Clone, Debug, Hash)]
pub struct Dlx {
    /// Its bit.
    pub bit: Dlxs,
    /// The protocol's side.
    pub gate: Gate,
    /// Requests sent to the resource.
    pub in_flight: u8,
    /// Requests held.
    pub held: u8,
    /// It takes no requests that could go elsewhere, and ends when no node knows it any more.
    pub leaving: bool,
    /// No slice names it, and this is how long it has waited since.
    pub unnamed: Option<PropagationDelay>,
}

/// How often each thing may still happen.
#[derive(Clone, Copy, Debug, Default, Hash, PartialEq, Eq)]
pub struct Budget {
    /// Requests come to a DLX.
    pub requests: u8,
    /// New connections are made to a pod.
    pub connections: u8,
    /// One of them is kept for another request.
    pub pools: u8,
    /// An autoscaler begins a drain attempt.
    pub drains: u8,
    /// An autoscaler dies.
    pub crashes: u8,
    /// Server-side apply removes the key.
    pub key_removals: u8,
    /// A person deletes our slice.
    pub deletes: u8,
    /// A person deletes the controller's slice.
    pub own_deletes: u8,
    /// A person scales to zero.
    pub zeros: u8,
    /// A person, or an HPA, scales up.
    pub ups: u8,
    /// The user opts out.
    pub opt_outs: u8,
    /// Another DLX joins.
    pub joins: u8,
    /// A DLX is asked to end.
    pub leaves: u8,
    /// A DLX dies.
    pub deaths: u8,
}

// === impl World ===

impl World {
    /// The Service's backend.
    pub fn backend(&self) -> Backend {
        backend(&self.service, self.slice.as_ref())
    }

    /// The DLXs that take requests.
    pub fn serving(&self) -> Dlxs {
        let serving = self.dlxs.iter().flatten().filter(|dlx| dlx.serves());
        serving.fold(0, |all, dlx| all | dlx.bit)
    }

    /// Whether the controller has nothing to do.
    pub fn is_through(&self) -> bool {
        self.own == (self.up && self.service.key.is_none())
    }

    /// What the slices say now.
    pub fn view(&self) -> View {
        View { own: self.own, dlxs: self.slice.as_ref().map_or(0, |slice| slice.names) }
    }

    /// The time to follow begins.
    pub fn propagation_delay(&self) -> PropagationDelay {
        let mut delay = PropagationDelay { through: false, left: [0; 2] };
        delay.look(self.is_through(), &self.backlog());
        delay
    }

    /// How far each node is behind.
    pub fn backlog(&self) -> [u8; 2] {
        [0, 1].map(|n| self.nodes.get(n).map_or(0, |node| node.behind.len() as u8))
    }

    /// Every clock that runs.
    pub fn delays(&mut self) -> impl Iterator<Item = &mut PropagationDelay> {
        let autoscalers = self.autoscalers.iter_mut().flat_map(|autoscaler| {
            let Autoscaler { own, intercepted, attempt, .. } = autoscaler;
            let switch = attempt.as_mut().and_then(|attempt| match &mut attempt.switch {
                Some(Switch::Led(delay)) => Some(delay),
                _ => None,
            });
            let own = own.as_mut().map(|own| &mut own.delay);
            own.into_iter()
                .chain(intercepted.as_mut().map(|intercepted| &mut intercepted.delay))
                .chain(switch)
        });
        autoscalers.chain(self.dlxs.iter_mut().flatten().filter_map(|dlx| dlx.unnamed.as_mut()))
    }

    /// Calls that change the interception and are on their way.
    pub fn calls(&self) -> impl Iterator<Item = &Call> {
        let orphans = self.orphans.iter().filter_map(|orphan| match orphan {
            Orphan::Call(call) => Some(call),
            Orphan::Commit(_) => None,
        });
        self.autoscalers.iter().filter_map(|autoscaler| autoscaler.call.as_ref()).chain(orphans)
    }

    /// The same, to be marked.
    pub fn calls_mut(&mut self) -> impl Iterator<Item = &mut Call> {
        let orphans = self.orphans.iter_mut().filter_map(|orphan| match orphan {
            Orphan::Call(call) => Some(call),
            Orphan::Commit(_) => None,
        });
        self.autoscalers.iter_mut().filter_map(|autoscaler| autoscaler.call.as_mut()).chain(orphans)
    }

    /// The commits under way.
    fn all_commits(&self) -> impl Iterator<Item = &Commit> {
        let attempts = self.autoscalers.iter().filter_map(|autoscaler| autoscaler.attempt.as_ref());
        let orphans = self.orphans.iter().filter_map(|orphan| match orphan {
            Orphan::Call(_) => None,
            Orphan::Commit(commit) => Some(commit),
        });
        attempts.filter_map(|attempt| attempt.commit.as_ref()).chain(orphans)
    }

    /// Whether a commit has written the key anew and is on its way.
    pub fn commits(&self) -> bool {
        self.all_commits().any(|commit| commit.at != CommitStep::Stamp)
    }

    /// Whether a commit has read the slices and is on its way.
    pub fn has_read_slices(&self) -> bool {
        self.all_commits().any(|commit| commit.at == CommitStep::Write)
    }

    /// The same for worlds that differ only in names, and in which autoscaler is the first.
    pub fn fingerprint(&self) -> u64 {
        let of = |a: usize| canon::fingerprint(&self.autoscalers[a]);
        let leaders = if of(0) <= of(1) { [0, 1] } else { [1, 0] };
        let mut hasher = Canon::default();
        (&self.workload, self.up, self.committed, self.asked, &self.service, &self.slice).hash(&mut hasher);
        (self.own, self.forgiven, &self.nodes, self.direct, &self.dlxs, self.ended).hash(&mut hasher);
        leaders.map(|a| &self.autoscalers[a]).hash(&mut hasher);
        (&self.orphans, self.left, self.incarnations).hash(&mut hasher);
        hasher.finish()
    }
}

/// A Service's backend.
pub fn backend(service: &Service, slice: Option<&Slice>) -> Backend {
    match (service.key, slice) {
        (None, None) => Backend::Workload,
        (None, Some(_)) => Backend::Both,
        (Some(_), _) => Backend::Dlx,
    }
}

// === impl PropagationDelay ===

impl PropagationDelay {
    /// The controller may be through by now.
    pub fn look(&mut self, through: bool, backlog: &[u8; 2]) {
        if through && !self.through {
            (self.through, self.left) = (true, *backlog);
        }
    }

    /// Every node has followed.
    pub fn is_over(&self) -> bool {
        self.through && self.left == [0; 2]
    }
}

// === impl Dlx ===

impl Dlx {
    /// Whether it takes requests.
    pub fn serves(&self) -> bool {
        !self.leaving && self.gate.seen().is_some()
    }
}

// === impl Budget ===

macro_rules! budget {
    ($($field:ident),*) => {
        impl Budget {
            /// Nothing happens.
            pub const NONE: Self = Self { $($field: 0),* };

            $(
                /// The same, with this so often.
                #[must_use]
                pub const fn $field(self, $field: u8) -> Self {
                    Self { $field, ..self }
                }
            )*
        }
    };
}

budget!(
    requests,
    connections,
    pools,
    drains,
    crashes,
    key_removals,
    deletes,
    own_deletes,
    zeros,
    ups,
    opt_outs,
    joins,
    leaves,
    deaths
);
