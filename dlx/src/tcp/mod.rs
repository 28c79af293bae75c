//! Ports that belong to one resource.

mod pipe;
mod ports;
mod splice;

pub use ports::{Bound, Ports, follow};
pub use splice::serve;
