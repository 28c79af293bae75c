//! What is worth knowing about a step: each of these must be seen in the faultless model.

/// Something interesting that happened on a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A commit put the resource to zero.
    Committed,
    /// A commit found another record.
    CommitConflict,
    /// A commit found another route when it was to write the key anew, or no slice after that.
    RouteChanged,
    /// A commit wrote the key anew, and then nothing more.
    StampedInVain,
    /// A try found its route changed after everybody had followed.
    SwitchLost,
    /// A sample saw a request at a pod.
    NotIdle,
    /// A request came to a DLX while the route was switched, and reverted the fence.
    RevertedBySwitched,
    /// A commit cut a request that no sample could see.
    CutUnseen,
    /// The resource slept, and was woken by a request.
    WokenByRequest,
    /// New connections go to both.
    LedToBoth,
    /// They go to the pods alone again.
    GivenBack,
    /// A Service that led to the pods alone was led to the DLXs, and not by a try.
    Led,
    /// A drain attempt was lifted that somebody had left behind.
    LeftBehind,
    /// A rival lifted the other's fence.
    RivalReverted,
    /// The write of a dead or given up author happened.
    OrphanLanded,
    /// It came too late.
    OrphanConflict,
    /// A rival's change of the route came too late.
    RouteConflict,
    /// The DLXs were not led to: the pods are not to be put to zero any more.
    StaleDropped,
    /// The key was not removed: a drain attempt stands.
    KeyStays,
    /// The look before our slice is removed found the key, or no pods.
    RemovalRefused,
    /// The key was taken away inside a drain attempt.
    KeyTakenInsideFence,
    /// Ours was put back.
    PutBack,
    /// A request came to a pod of an always led Service past the DLXs.
    PastDlxs,
    /// The slice was deleted while the key was there.
    SliceDeletedUnderKey,
    /// It was scaled up inside a drain attempt.
    ScaledInsideFence,
    /// It was scaled to zero inside a drain attempt.
    ZeroInsideFence,
    /// A wake by hand was noticed.
    WokenByHand,
    /// The owner opted out inside a drain attempt.
    OptedOutInsideFence,
    /// The owner opted out while it slept.
    OptedOutAsleep,
    /// Slices were brought up to date.
    Tended,
    /// A DLX ended in good order.
    Ended,
    /// A slice named a stopping DLX once more.
    NamedAgain,
    /// A node still knew a DLX that died.
    DeadNamed,
    /// No DLX served for so long that the route was given back.
    DeadMan,
    /// A DLX joined inside a drain attempt.
    JoinedInsideFence,
}

// === impl Event ===

impl Event {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Committed,
        Self::CommitConflict,
        Self::RouteChanged,
        Self::StampedInVain,
        Self::SwitchLost,
        Self::NotIdle,
        Self::RevertedBySwitched,
        Self::CutUnseen,
        Self::WokenByRequest,
        Self::LedToBoth,
        Self::GivenBack,
        Self::Led,
        Self::LeftBehind,
        Self::RivalReverted,
        Self::OrphanLanded,
        Self::OrphanConflict,
        Self::RouteConflict,
        Self::StaleDropped,
        Self::KeyStays,
        Self::RemovalRefused,
        Self::KeyTakenInsideFence,
        Self::PutBack,
        Self::PastDlxs,
        Self::SliceDeletedUnderKey,
        Self::ScaledInsideFence,
        Self::ZeroInsideFence,
        Self::WokenByHand,
        Self::OptedOutInsideFence,
        Self::OptedOutAsleep,
        Self::Tended,
        Self::Ended,
        Self::NamedAgain,
        Self::DeadNamed,
        Self::DeadMan,
        Self::JoinedInsideFence,
    ];

    /// Its bit in a set of events.
    pub fn bit(self) -> u64 {
        1 << self as u64
    }
}
