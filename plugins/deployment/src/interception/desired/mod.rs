//! What is to be intercepted, why not, and how it is now: pure functions of the index.

pub(crate) mod plan;
pub(crate) mod reach;
pub(crate) mod refusals;
pub(crate) mod status;
