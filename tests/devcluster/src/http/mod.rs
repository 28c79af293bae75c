//! HTTP: connections, requests, answers, refusals.

pub mod answer;
pub mod failure;
pub mod listen;
mod protobuf;
pub mod query;
pub mod request;
