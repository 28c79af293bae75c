//! A Kubernetes API, its controllers and a node, for tests.

mod cache;
pub mod netns;
pub mod node;
