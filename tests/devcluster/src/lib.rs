//! A Kubernetes API, its controllers and a node, for tests.

pub mod netns;
