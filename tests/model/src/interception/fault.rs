//! Faults of the daemons, the plugin or their surroundings, each of which the checker must find.

/// One fault outside the protocol's own functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The sample is taken before every node has followed.
    SamplesBeforeDelay,
    /// The sample does not see requests that had come before it.
    SamplesNothing,
    /// Nodes take longer than the propagation delay.
    NodesOutlastDelay,
    /// The switch back to the pods does not wait until the nodes know them.
    RestoresEarly,
    /// What was known of the pods is taken for known although the interception was changed meanwhile.
    KnowsForever,
    /// Our slice is removed while the key stays.
    RemovesSliceUnderKey,
    /// Our slice is removed though its Service has changed since it was seen that it can be.
    RemovesSliceOfAnotherService,
    /// Our slice is removed whichever it is by now.
    RemovesAnotherSlice,
    /// Our slice is removed without a check whether the controller's names the pods by now.
    RemovesSliceUnseen,
    /// In traffic mode `when-asleep` a Service is intercepted without a check whether the pods are to be scaled to zero still.
    InterceptsUnread,
    /// The key is added before our slice.
    KeyFirst,
    /// A commit does not write the key anew: it only reads that one is there.
    DoesNotStamp,
    /// A commit writes the key anew on whatever version the Service has by then, not on that of the view.
    StampsWhatIsThere,
    /// In traffic mode `always` a commit relies on a view whose backend is the DLXs, for however short a time.
    DoesNotLookAgain,
    /// The same, if the autoscaler remembers that it has been so for a window.
    LooksInMemory,
    /// A commit does not read the slices after that.
    SlicesNotRead,
    /// The key is removed without a check whether a drain attempt stands.
    WorkloadNotRead,
    /// That check is made before the key's value is read.
    ReadsWorkloadFirst,
    /// Where the key has another value than was read, it is removed on what is read then.
    RetriesRemoval,
    /// Service and slice are written whatever their version is by now.
    WritesBlindly,
    /// A write of an interception lands after the propagation delay of what was seen later.
    WritesOutlastDelay,
    /// `intercepted_for` of an always intercepted Service continues after the key was removed.
    InterceptedForGoesOn,
    /// A stopping DLX ends while a slice names it.
    EndsNamed,
    /// It ends as soon as no slice names it.
    EndsWithoutDelay,
    /// Slices are written with the DLXs of some time ago.
    NamesFromMemory,
    /// The interception is changed by drain attempts alone.
    NoSync,
}
