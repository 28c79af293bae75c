//! Faults of the daemons, the plugin or their surroundings, each of which the checker must find.

/// One fault outside the protocol's own functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The sample is taken before everybody has followed.
    SamplesBeforeGrace,
    /// The sample does not see requests that had come before it.
    SamplesNothing,
    /// Nodes take longer than the grace.
    NodesOutlastGrace,
    /// The way back to the pods does not wait until they are known.
    GivesBackEarly,
    /// What was known of the pods is taken for known of a route that was changed meanwhile.
    KnowsForever,
    /// Our slice is removed while the key stays.
    RemovesSliceUnderKey,
    /// Our slice is removed though its Service has changed since it was seen that it can be.
    RemovesSliceOfAnotherService,
    /// Our slice is removed whichever it is by now.
    RemovesAnotherSlice,
    /// Our slice is removed without a look whether the controller's names the pods by now.
    RemovesSliceUnseen,
    /// In traffic mode `when-asleep` a route is led to the DLXs without a look whether the pods are to be put to zero still.
    LeadsUnread,
    /// The key is added before our slice.
    KeyFirst,
    /// A commit does not write the key anew: it only reads that one is there.
    DoesNotStamp,
    /// A commit writes the key anew on whatever version the Service has by then, not on that of the view.
    StampsWhatIsThere,
    /// In traffic mode `always` a commit goes by a view that leads to the DLXs, for however short a time.
    DoesNotLookAgain,
    /// The same, if the autoscaler remembers that it has led there for a window.
    LooksInMemory,
    /// A commit does not read the slices after that.
    SlicesNotRead,
    /// The key is removed without a look whether a drain attempt stands.
    WorkloadNotRead,
    /// That look is taken before the key's value is read.
    ReadsWorkloadFirst,
    /// Where the key has another value than was read, it is removed on what is read then.
    TriesAgain,
    /// A route is written whatever its version is by now.
    WritesBlindly,
    /// A write of a route lands after the grace of what was seen later.
    WritesOutlastGrace,
    /// What the DLXs counted of an always led Service counts on after somebody took the key away.
    LedForGoesOn,
    /// A stopping DLX ends while a slice names it.
    EndsNamed,
    /// It ends as soon as no slice names it.
    EndsWithoutGrace,
    /// Slices are written with the DLXs of some time ago.
    NamesFromMemory,
    /// Nobody looks at the route but who fences.
    NobodyTends,
}
