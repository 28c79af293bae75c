//! What is worth knowing about a step: each of these must be seen in the faultless model.

/// Something interesting that happened on a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A commit scaled the resource to zero.
    Committed,
    /// A commit found another record.
    CommitConflict,
    /// A commit found the Service changed when it was to write the key anew, or no slice after that.
    ServiceChanged,
    /// A commit wrote the key anew, and then nothing more.
    StampedInVain,
    /// A drain attempt found its Service changed after every node had followed.
    SwitchLost,
    /// A sample saw a request at a pod.
    NotIdle,
    /// A request came to a DLX after the switchover, and reverted the drain attempt.
    RevertedBySwitched,
    /// A commit cut a request that no sample could see.
    CutUnseen,
    /// The resource slept, and was woken by a request.
    WokenByRequest,
    /// New connections go to both.
    SwitchedToBoth,
    /// They go to the pods alone again.
    Restored,
    /// A Service whose backend was the pods was intercepted, and not by a drain attempt.
    Intercepted,
    /// A stale drain attempt was reverted.
    StaleDrainReverted,
    /// A rival reverted the other's drain attempt.
    RivalReverted,
    /// The write of a dead or given up author happened.
    OrphanLanded,
    /// It came too late.
    OrphanConflict,
    /// A rival's change of the interception came too late.
    CallConflict,
    /// A switch to the DLXs was dropped: the pods are not to be scaled to zero any more.
    StaleDropped,
    /// The key was not removed: a drain attempt stands.
    KeyStays,
    /// The look before our slice is removed found the key, or no pods.
    RemovalRefused,
    /// The key was removed inside a drain attempt.
    KeyRemovedDuringDrain,
    /// Our key was added again.
    KeyAddedAgain,
    /// A request came to a pod of an always intercepted Service past the DLXs.
    PastDlxs,
    /// The slice was deleted while the key was there.
    SliceDeletedUnderKey,
    /// It was scaled up inside a drain attempt.
    ScaledDuringDrain,
    /// It was scaled to zero inside a drain attempt.
    ZeroDuringDrain,
    /// A manual scale-up was noticed.
    ScaledUpManually,
    /// The user opted out inside a drain attempt.
    OptedOutDuringDrain,
    /// The user opted out while it slept.
    OptedOutAsleep,
    /// Slices were brought up to date.
    SlicesUpdated,
    /// A DLX ended in good order.
    Ended,
    /// A slice named a stopping DLX once more.
    NamedAgain,
    /// A node still knew a DLX that died.
    DeadNamed,
    /// No DLX served for so long that traffic failed over to the pods.
    FailedOver,
    /// A DLX joined inside a drain attempt.
    JoinedDuringDrain,
}

// === impl Event ===

impl Event {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Committed,
        Self::CommitConflict,
        Self::ServiceChanged,
        Self::StampedInVain,
        Self::SwitchLost,
        Self::NotIdle,
        Self::RevertedBySwitched,
        Self::CutUnseen,
        Self::WokenByRequest,
        Self::SwitchedToBoth,
        Self::Restored,
        Self::Intercepted,
        Self::StaleDrainReverted,
        Self::RivalReverted,
        Self::OrphanLanded,
        Self::OrphanConflict,
        Self::CallConflict,
        Self::StaleDropped,
        Self::KeyStays,
        Self::RemovalRefused,
        Self::KeyRemovedDuringDrain,
        Self::KeyAddedAgain,
        Self::PastDlxs,
        Self::SliceDeletedUnderKey,
        Self::ScaledDuringDrain,
        Self::ZeroDuringDrain,
        Self::ScaledUpManually,
        Self::OptedOutDuringDrain,
        Self::OptedOutAsleep,
        Self::SlicesUpdated,
        Self::Ended,
        Self::NamedAgain,
        Self::DeadNamed,
        Self::FailedOver,
        Self::JoinedDuringDrain,
    ];

    /// Its bit in a set of events.
    pub fn bit(self) -> u64 {
        1 << self as u64
    }
}
