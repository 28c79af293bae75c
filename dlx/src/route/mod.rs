//! For whom a request is: the resource that the port or the host belongs to, or the one a trusted peer names.

mod host;
mod named;
mod peers;
mod table;

pub use host::{is_host, lookup_form, normalize};
pub use named::{Named, named};
pub use peers::{Network, Peers, client};
pub use table::{Claim, Conflict, NameHeader, PathHeader, Table};
