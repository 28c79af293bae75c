//! To the resource and back, once a request may go.

pub(crate) mod http;
pub(crate) mod tcp;
