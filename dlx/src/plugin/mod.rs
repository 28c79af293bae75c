//! A plugin that serves one namespace file: what a DLX calls of it, and what it answers for.

mod calls;
mod source;

pub(crate) use calls::PluginCalls;
#[cfg(test)]
pub(crate) use calls::{CallFuture, PluginCallError};
pub(crate) use source::PluginSource;
