//! To the resource and back, once a request may go.

pub mod http;
pub mod tcp;
