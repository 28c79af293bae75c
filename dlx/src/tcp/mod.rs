//! Ports that belong to one resource.

mod owner;
mod pipe;
mod ports;
mod service;
mod splice;

pub use owner::owner;
pub use ports::{Bound, Ports, follow};
pub use service::ServiceListeners;
pub use splice::serve;
