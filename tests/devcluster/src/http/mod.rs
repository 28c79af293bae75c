//! HTTP: connections, requests, answers, refusals.

pub mod answer;
pub mod failure;
pub mod listen;
pub mod query;
pub mod request;
