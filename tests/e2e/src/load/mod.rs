//! Clients that never retry: every request is sent at most once, and has an id of its own.

mod http;
mod lines;
mod outcome;

pub use http::{Connection, Exchange, Response, get, once};
pub use lines::Lines;
pub use outcome::{Ids, Ledger, Lost, Outcome};
