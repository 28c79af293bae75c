//! What is to be intercepted, why not, and how it is now: pure functions of what is known.

pub mod plan;
pub mod reach;
pub mod refusals;
pub mod status;
