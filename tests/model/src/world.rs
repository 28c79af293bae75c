//! The state of the modelled world.

use std::hash::{Hash, Hasher};

use crate::canon::{self, Canon};
use scaler_types::{
    Nonce, Record, Version,
    protocol::{Drain, Gate, Seen},
};

/// The author of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    /// A gate's.
    Gate(usize),
    /// A gate's wake.
    Wake(usize),
    /// A drain attempt's.
    Drain(usize),
    /// A recovery's.
    Recovery(usize),
    /// A resize's, or a wake's by the leader.
    Scale(usize),
    /// It has none any more.
    Orphan(usize),
}

/// Everything there is: one resource, two DLXs, two autoscalers, a person, and what is under way between them.
#[derive(Clone, Debug)]
pub struct World {
    /// The resource's record.
    pub store: Store,
    /// The DLXs; `None`: no incarnation runs there now.
    pub dlx: [Option<Dlx>; 2],
    /// The last incarnation in each place. No part of a state's identity.
    pub incarnations: [u8; 2],
    /// The autoscalers, both of which believe to be the leader.
    pub autoscalers: [Autoscaler; 2],
    /// Writes whose author is gone or has given up: they may still happen.
    pub orphans: Vec<Write>,
    /// A record that an undo can bring back.
    pub kept: Option<Record>,
    /// What may still happen.
    pub left: Budget,
    /// The last version and nonce given out. No part of a state's identity.
    pub names: u32,
}

/// The resource: its record and its process.
#[derive(Clone, Debug, Hash)]
pub struct Store {
    /// Record, version and scale, written in one step.
    pub now: Seen,
    /// The one before; kept only for the fault that lists it.
    pub before: Option<Seen>,
    /// The process answers. It ceases with the scale, and begins some time after it.
    pub up: bool,
    /// It was a commit that scaled it to zero.
    pub committed: bool,
    /// The process of before it was scaled to zero; only where the plugin's pods lag.
    pub old: Old,
    /// Its deletion is in the API, where it can be seen that it is being stopped. It answers on for a while.
    pub marked: bool,
    /// How many replicas it has, as the last resize wrote it.
    pub replicas: u8,
    /// That resize came after the last drain attempt was written.
    pub resized: bool,
}

/// A process that is to be stopped and still answers.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum Old {
    /// There is none.
    Gone,
    /// A person scaled it to zero.
    Manual,
    /// A commit did.
    ByCommit,
}

/// What the plugin in one DLX's process knows of pods: a watch of its own, older or newer than that of the records.
#[derive(Clone, Copy, Debug, Default, Hash, PartialEq, Eq)]
pub struct Pods {
    /// The last record it saw has no replicas.
    pub zero: bool,
    /// Its cache has a pod of before the resource was scaled to zero, and nothing says there that it is being stopped.
    pub old: bool,
    /// Its cache has the pod of now.
    pub new: bool,
    /// It saw the old pod alive at zero replicas: never an endpoint again.
    pub old_buried: bool,
    /// The same of the pod of now, of which it knew before it knew of its wake.
    pub new_buried: bool,
}

/// One incarnation of a DLX.
#[derive(Clone, Debug, Hash)]
pub struct Dlx {
    /// The name under which it registers, another one for each incarnation.
    pub name: String,
    /// It is in the membership.
    pub registered: bool,
    /// It follows the stream of changes.
    pub following: bool,
    /// The changes that it has yet to see, in order.
    pub stream: Vec<Seen>,
    /// The protocol's side.
    pub gate: Gate,
    /// The gate's write.
    pub write: Option<Write>,
    /// The gate's wake.
    pub wake: Option<Write>,
    /// Requests that are counted and have yet to look whether the gate is open.
    pub looking: u8,
    /// Requests that found it open and are on their way to the resource.
    pub sending: u8,
    /// Requests that have reached the resource, upgraded sockets included.
    pub reached: u8,
    /// Requests held.
    pub held: u8,
    /// It is frozen (SIGSTOP): lives, holds its lock, does nothing.
    pub frozen: bool,
    /// It takes no new requests and leaves when the last is done.
    pub leaving: bool,
    /// A fault's own mark.
    pub mark: bool,
    /// Its plugin's pods; only where they lag.
    pub pods: Pods,
}

/// One autoscaler. After a crash another one is there at once: what a pause would add, any delay adds.
#[derive(Clone, Debug, Default)]
pub struct Autoscaler {
    /// The drain attempt under way.
    pub attempt: Option<Attempt>,
    /// A record it writes because no drain attempt or wake is under way.
    pub recovery: Option<Write>,
    /// Its resize, or its wake by a metric.
    pub scale: Option<Write>,
}

/// One drain attempt.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The protocol's side.
    pub drain: Drain,
    /// The membership is to be read.
    pub reading: bool,
    /// The drain attempt's write: draining, revert or commit.
    pub write: Option<Write>,
    /// What was asked of the DLX in each place.
    pub questions: [Question; 2],
}

/// A question to one DLX, and its answer on the way back.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub enum Question {
    /// None, or its answer was heard.
    None,
    /// On its way to this incarnation, or waiting there.
    Asked(String, Nonce),
    /// Confirmed; on its way back.
    Confirmed(String),
    /// Refused; on its way back.
    Refused(String),
}

/// What a write does besides the record.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Record,
    /// Scales to zero.
    Commit,
    /// Scales to at least one.
    Wake,
    /// As [`Wake`](Self::Wake), by the leader.
    WakeByLeader,
    /// Scales to so many.
    Resize(u8),
}

/// A compare-and-set under way.
#[derive(Clone, Debug, Hash)]
pub struct Write {
    /// What it does besides the record.
    pub kind: Kind,
    /// The version that must stand.
    pub expected: Version,
    /// The record it writes.
    pub record: Record,
    /// It has reached the store, and this answer is on its way; `None` inside: a conflict.
    pub landed: Option<Option<Version>>,
}

/// How often each thing may still happen.
#[derive(Clone, Copy, Debug, Default, Hash, PartialEq, Eq)]
pub struct Budget {
    /// Requests arrive.
    pub requests: u8,
    /// An autoscaler begins a drain attempt.
    pub drains: u8,
    /// A person scales to zero.
    pub zeros: u8,
    /// A person scales from zero, or to another number.
    pub others: u8,
    /// An undo brings back a record from earlier.
    pub undos: u8,
    /// A DLX dies.
    pub dlx_crashes: u8,
    /// An autoscaler dies.
    pub autoscaler_crashes: u8,
    /// A DLX is frozen.
    pub freezes: u8,
    /// A frozen DLX continues.
    pub resumes: u8,
    /// A DLX is asked to end.
    pub leaves: u8,
    /// A write's answer is lost.
    pub unknowns: u8,
    /// The stream repeats the newest state.
    pub repeats: u8,
    /// A wake turns out to be impossible.
    pub failures: u8,
    /// A leader has another number of replicas.
    pub resizes: u8,
    /// A metric has a leader wake it.
    pub metrics: u8,
}

// === impl World ===

impl World {
    /// The same for worlds that differ only in names, and in which DLX or autoscaler is the first and which the second.
    pub fn fingerprint(&self) -> u64 {
        let dlx = |d: usize| {
            let questions = self
                .autoscalers
                .each_ref()
                .map(|autoscaler| autoscaler.attempt.as_ref().map(|attempt| &attempt.questions[d]));
            canon::fingerprint(&(&self.dlx[d], questions))
        };
        let autoscaler = |a: usize| {
            let attempt = self.autoscalers[a].attempt.as_ref();
            canon::fingerprint(&(
                attempt.map(|attempt| (&attempt.drain, &attempt.write)),
                &self.autoscalers[a].recovery,
                &self.autoscalers[a].scale,
            ))
        };
        // Any order is right; that the same one is found for both of a pair saves states.
        let places = if dlx(0) <= dlx(1) { [0, 1] } else { [1, 0] };
        let leaders = if autoscaler(0) <= autoscaler(1) { [0, 1] } else { [1, 0] };
        let mut hasher = Canon::default();
        (&self.store, places.map(|d| &self.dlx[d])).hash(&mut hasher);
        for a in leaders {
            let Autoscaler { attempt, recovery, scale } = &self.autoscalers[a];
            (recovery, scale).hash(&mut hasher);
            attempt.is_some().hash(&mut hasher);
            if let Some(Attempt { drain, reading, write, questions }) = attempt {
                (drain, reading, write, places.map(|d| &questions[d])).hash(&mut hasher);
            }
        }
        (&self.orphans, &self.kept, self.left).hash(&mut hasher);
        hasher.finish()
    }
}

impl World {
    /// Where a write under way is kept.
    pub fn write(&self, author: Author) -> Option<&Write> {
        match author {
            Author::Gate(d) => self.dlx[d].as_ref()?.write.as_ref(),
            Author::Wake(d) => self.dlx[d].as_ref()?.wake.as_ref(),
            Author::Drain(a) => self.autoscalers[a].attempt.as_ref()?.write.as_ref(),
            Author::Recovery(a) => self.autoscalers[a].recovery.as_ref(),
            Author::Scale(a) => self.autoscalers[a].scale.as_ref(),
            Author::Orphan(orphan) => self.orphans.get(orphan),
        }
    }

    /// The same, to take it away; not for orphans.
    pub fn write_mut(&mut self, author: Author) -> Option<&mut Option<Write>> {
        match author {
            Author::Gate(d) => Some(&mut self.dlx[d].as_mut()?.write),
            Author::Wake(d) => Some(&mut self.dlx[d].as_mut()?.wake),
            Author::Drain(a) => Some(&mut self.autoscalers[a].attempt.as_mut()?.write),
            Author::Recovery(a) => Some(&mut self.autoscalers[a].recovery),
            Author::Scale(a) => Some(&mut self.autoscalers[a].scale),
            Author::Orphan(_) => None,
        }
    }
}

// === impl Dlx ===

impl Dlx {
    /// An incarnation that has done nothing yet.
    pub fn new(name: String, gate: Gate) -> Self {
        Self {
            name,
            registered: false,
            following: false,
            stream: Vec::new(),
            gate,
            write: None,
            wake: None,
            looking: 0,
            sending: 0,
            reached: 0,
            held: 0,
            frozen: false,
            leaving: false,
            mark: false,
            pods: Pods::default(),
        }
    }

    /// What it reports when a drain attempt asks.
    pub fn in_flight(&self) -> u8 {
        self.looking + self.sending + self.reached
    }

    /// Whether nothing is under way in it.
    pub fn idle(&self) -> bool {
        self.in_flight() + self.held == 0 && self.write.is_none() && self.wake.is_none()
    }
}

// === impl Pods ===

impl Pods {
    /// The records' watch showed whether there are replicas. What is alive at zero replicas is about to be stopped.
    pub fn see_record(&mut self, scaled: bool) {
        self.zero = !scaled;
        self.old_buried |= self.zero && self.old;
        self.new_buried |= self.zero && self.new;
    }

    /// The pods' watch came up to now.
    pub fn see_pods(&mut self, store: &Store) {
        (self.old, self.new) = (store.old != Old::Gone && !store.marked, store.up);
        self.old_buried &= self.old;
        self.new_buried &= self.new;
        self.see_record(!self.zero);
    }

    /// A list that is not older than the call: what is alive with replicas is no older than they are.
    pub fn list(&mut self, store: &Store) {
        *self = Self::default();
        self.zero = !store.now.scaled;
        self.see_pods(store);
    }

    /// The pod of now has become one of before.
    pub fn scale_to_zero(&mut self) {
        if self.new {
            (self.old, self.old_buried) = (true, self.new_buried);
        }
        (self.new, self.new_buried) = (false, false);
    }
}

// === impl Write ===

impl Write {
    /// A write that has yet to reach the store. Reasons are for people: they would only multiply the states.
    pub fn new(kind: Kind, expected: Version, record: Record) -> Self {
        Self {
            kind,
            expected,
            record: Record { reason: String::new(), failed_wake: String::new(), ..record },
            landed: None,
        }
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
    drains,
    zeros,
    others,
    undos,
    dlx_crashes,
    autoscaler_crashes,
    freezes,
    resumes,
    leaves,
    unknowns,
    repeats,
    failures,
    resizes,
    metrics
);
