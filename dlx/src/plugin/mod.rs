//! A plugin that serves one namespace file: what a DLX calls of it, and what it answers for.

mod calls;
mod source;

pub use calls::{CallFuture, PluginCallError, PluginCalls};
pub use source::PluginSource;
