//! What an autoscaler does besides its drain attempts and its changes of the interception.

use scaler_types::{
    Phase, Record, Version,
    protocol::{WakeSeen, recover},
};

use super::{Step, take_one};
use crate::interception::{
    event::Event,
    leader::{Autoscaler, Call, CallStep, CommitStep, InterceptedSince, Orphan},
};

// === impl Step ===

impl Step<'_> {
    /// Every node has followed, what had come past the DLXs before has ended, and that is outside every window by now.
    pub(super) fn cover(&mut self, a: usize) -> bool {
        let ended = self.world.direct.seen == 0;
        let Some(intercepted) = self.world.autoscalers[a].intercepted.clone() else { return false };
        let covers = ended && !intercepted.covered && self.is_over(&intercepted.delay);
        self.world.autoscalers[a].intercepted =
            Some(InterceptedSince { covered: intercepted.covered || covers, ..intercepted });
        covers
    }

    /// A stale record.
    pub(super) fn recover(&mut self, a: usize) -> bool {
        let fresh = self.nonce();
        let mine = self.world.autoscalers[a].attempt.is_some();
        let Some(record) = recover(&self.world.workload, mine, WakeSeen::Unknown, fresh) else {
            return false;
        };
        match self.world.workload.record.phase {
            Phase::Draining if self.is_rivals(a) => self.note(Event::RivalReverted),
            Phase::Draining => self.note(Event::StaleDrainReverted),
            Phase::Asleep => self.note(Event::ScaledUpManually),
            _ => false,
        };
        self.write_record(Record { reason: String::new(), failed_wake: String::new(), ..record });
        true
    }

    pub(super) fn crash(&mut self, a: usize) -> bool {
        let autoscaler = &self.world.autoscalers[a];
        let idle = autoscaler.attempt.is_none() && autoscaler.call.is_none() && autoscaler.observed.is_none();
        if idle || !take_one(&mut self.world.left.crashes) {
            return false;
        }
        let Autoscaler { call, attempt, .. } = std::mem::take(&mut self.world.autoscalers[a]);
        // A request that only reads comes to nothing.
        let writes = |call: &Call| {
            !matches!(call.at, CallStep::ReadService | CallStep::ReadWorkload | CallStep::ReadRemoval)
        };
        self.world.orphans.extend(call.filter(writes).map(Orphan::Call));
        let commit = attempt.and_then(|attempt| attempt.commit);
        let commit = commit.filter(|commit| commit.at != CommitStep::Slices);
        self.world.orphans.extend(commit.map(Orphan::Commit));
        true
    }

    pub(super) fn write_record(&mut self, record: Record) -> Version {
        let version = self.version();
        self.world.workload.record = record;
        self.world.workload.version = version.clone();
        version
    }
}
