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
    /// Our slice is removed without a look whether the key is there by now.
    RemovesSliceUnread,
    /// Our slice is removed without a look whether the controller's names the pods by now.
    RemovesSliceUnseen,
    /// The key is added before our slice.
    KeyFirst,
    /// A commit does not read the route once more.
    DoesNotReadAgain,
    /// A route is written whatever its version is by now.
    WritesBlindly,
    /// A write of a route lands after the grace of what was seen later.
    WritesOutlastGrace,
    /// A change of the route is decided on a row that was read before the route, or never again.
    RowFromMemory,
    /// Our slice is not written anew when it is there as it should be.
    SliceNotRewritten,
    /// A route that leads to the DLXs already is not written anew for a try.
    SwitchNotRewritten,
    /// On path always a try does not write the route.
    AlwaysNotSwitched,
    /// What the DLXs counted of an always led Service counts on after somebody took the key away.
    LedForGoesOn,
    /// The route is given back while a fence stands.
    GivesBackInsideFence,
    /// A stopping DLX ends while a slice names it.
    EndsNamed,
    /// It ends as soon as no slice names it.
    EndsWithoutGrace,
    /// Slices are written with the DLXs of some time ago.
    NamesFromMemory,
    /// Nobody looks at the route but who fences.
    NobodyTends,
}
