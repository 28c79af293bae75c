//! The chart, the manifests and the examples: rendered, held against the programs and against the API's types.

mod daemons;
mod policy;
mod rights;
mod typed;
mod values;
