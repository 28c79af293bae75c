//! TCP to a resource and back.

mod pipe;
mod splice;

pub(crate) use splice::serve;
