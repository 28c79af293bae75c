//! TCP to a resource and back.

mod pipe;
mod splice;

pub use splice::serve;
