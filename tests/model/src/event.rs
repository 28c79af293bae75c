//! What is worth knowing about a step: each of these must be seen in the faultless model.

/// Something interesting that happened on a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A commit scaled the resource to zero.
    Committed,
    /// A request inside a drain attempt reverted it.
    RevertedByRequest,
    /// A drain attempt was reverted because a DLX refused or did not answer.
    RevertedByRefusal,
    /// A commit found another version.
    CommitConflict,
    /// A commit's answer was lost.
    CommitUnknown,
    /// Two DLXs wanted to wake it at the same time.
    TwoWakes,
    /// A wake's answer was lost.
    WakeUnknown,
    /// A wake turned out to be impossible.
    WakeFailed,
    /// A DLX registered while a drain attempt stood.
    JoinedDuringDrain,
    /// A drain attempt was committed that a DLX had not confirmed because it registered later.
    CommittedPastJoiner,
    /// A DLX died while it was asked.
    DiedWhileAsked,
    /// A DLX confirmed late, after the drain attempt had been reverted.
    LateConfirm,
    /// A stale record, of a crash or a lost answer, was repaired.
    StaleDrainRecovered,
    /// An autoscaler reverted the other's drain attempt.
    RivalReverted,
    /// A manual scale-up was noticed.
    ScaledUpManually,
    /// The stream delivered what the DLX's own write had replaced.
    StaleIgnored,
    /// An own write's answer came after something newer had been seen.
    OwnWriteOvertaken,
    /// A drain attempt stood while a live DLX was unreachable.
    DrainBesideUnreachable,
    /// A held request was dispatched.
    HeldDispatched,
    /// A request found the process away, provably never reached it, and was held.
    RefusedAndHeld,
    /// A write whose author is gone happened all the same.
    OrphanLanded,
    /// A person scaled it to zero inside a drain attempt.
    ZeroDuringDrain,
    /// An old record came back.
    Undone,
    /// An old record came back inside a drain attempt.
    UndoneDuringDrain,
    /// A DLX confirmed that it holds what comes, and another has a request in flight.
    RefusedInFlight,
    /// The resource slept, and was woken by a request.
    WokenByRequest,
    /// A DLX left with all its requests done.
    Left,
    /// There was no DLX at all when the members were read.
    NoMembers,
    /// A resource that is failed and has replicas was drained.
    DrainedFailed,
    /// One was woken by a request.
    FailedWoken,
    /// One was woken after its process had begun to answer.
    FailedWokenUp,
    /// A wake waited until the process of before was stopped.
    WakeWaited,
    /// A plugin saw a pod alive at zero replicas: one of before.
    OldPodBuried,
    /// One of the wake that it did not know of yet, and listed it when it asked anew.
    NewPodUnburied,
    /// A resize while it is awake.
    Resized,
    /// A resize while it is waking.
    ResizedWaking,
    /// A resize found another version.
    ResizeConflict,
    /// A drain attempt could not be written because a resize was faster.
    ResizeBeatDrain,
    /// A commit found the version of a resize.
    CommitAfterResize,
    /// The leader woke it.
    WokenByLeader,
    /// A wake by the leader found another version.
    LeaderWakeConflict,
    /// The leader woke it while a request was held.
    WokenBesideRequest,
    /// The leader took one for awake that had come up after its wake had failed.
    FailedResumed,
}

// === impl Event ===

impl Event {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Committed,
        Self::RevertedByRequest,
        Self::RevertedByRefusal,
        Self::CommitConflict,
        Self::CommitUnknown,
        Self::TwoWakes,
        Self::WakeUnknown,
        Self::WakeFailed,
        Self::JoinedDuringDrain,
        Self::CommittedPastJoiner,
        Self::DiedWhileAsked,
        Self::LateConfirm,
        Self::StaleDrainRecovered,
        Self::RivalReverted,
        Self::ScaledUpManually,
        Self::StaleIgnored,
        Self::OwnWriteOvertaken,
        Self::DrainBesideUnreachable,
        Self::HeldDispatched,
        Self::RefusedAndHeld,
        Self::OrphanLanded,
        Self::ZeroDuringDrain,
        Self::Undone,
        Self::UndoneDuringDrain,
        Self::RefusedInFlight,
        Self::WokenByRequest,
        Self::Left,
        Self::NoMembers,
        Self::DrainedFailed,
        Self::FailedWoken,
        Self::FailedWokenUp,
        Self::WakeWaited,
        Self::OldPodBuried,
        Self::NewPodUnburied,
        Self::Resized,
        Self::ResizedWaking,
        Self::ResizeConflict,
        Self::ResizeBeatDrain,
        Self::CommitAfterResize,
        Self::WokenByLeader,
        Self::LeaderWakeConflict,
        Self::WokenBesideRequest,
        Self::FailedResumed,
    ];

    /// Its bit in a set of events.
    pub fn bit(self) -> u64 {
        1 << self as u64
    }
}
