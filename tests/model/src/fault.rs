//! Faults of the daemons or their surroundings, each of which the checker must find.

/// One fault outside the protocol's own functions (those of the protocol are its [`Rules`](scaler_types::protocol::Rules)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A DLX lists before it registers.
    ListsBeforeRegistering,
    /// A DLX that does not answer is taken for dead.
    UnreachableIsDead,
    /// A DLX reverts a drain attempt when it has stood for some time.
    RevertsByTimer,
    /// The stream delivers an older state after a newer one.
    StreamOutOfOrder,
    /// The membership is cached: a DLX that joined is forgotten.
    ForgetsJoined,
    /// A request looks at the gate before it is counted.
    LooksBeforeCounting,
    /// A DLX leaves the membership before its last request is done.
    LeavesEarly,
    /// A list may be older than the call.
    ListsThePast,
    /// A write whose answer was lost is taken for done.
    UnknownIsDone,
    /// Stale records are not repaired.
    NoRecovery,
    /// A held request asks for its wake once only.
    WantsOnce,
    /// A plugin scales from zero while pods of before are alive.
    WakesOverOldPods,
    /// A plugin lists every pod that is alive in its cache, whatever it has seen of it before.
    ForgetsOldPods,
    /// A plugin never looks again at a pod that it took for one of before.
    BuriesForGood,
    /// A request that was cut after it had reached the resource is sent again.
    SendsAgain,
    /// A resize keeps the nonce.
    ResizeKeepsNonce,
    /// There is a resize in `draining`.
    ResizesWhileDraining,
    /// A plugin takes a resize while waking for its own earlier attempt wherever the record is the same.
    ResizeTrustsRecord,
    /// A wake by the leader does not test the version.
    WakesBlindly,
}
