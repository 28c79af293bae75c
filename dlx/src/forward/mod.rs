//! Forwards to the resource and back.

pub(crate) mod http;
pub(crate) mod tcp;
