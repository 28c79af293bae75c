//! What the plugins tell of their resources, in order: one task per instance, and nobody else asks for lists.

mod calls;
mod follow;
mod source;

pub use calls::{Calls, Failed, Pending};
pub use follow::{Followed, follow_fleet, follow_source};
pub use source::Source;
