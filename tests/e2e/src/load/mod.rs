//! Clients that never retry: every request is sent at most once, and has an id of its own.

mod grpc;
mod http;
mod lines;
mod outcome;
mod socket;

pub use grpc::call;
pub use http::{Connection, Exchange, Response, get, once, post};
pub use lines::Lines;
pub use outcome::{Ids, Ledger, Lost, Outcome};
pub use socket::WebSocket;
