//! What our daemons and tests depend on of a Kubernetes API. Runs against devcluster, or, with `SCALER_E2E_KUBECONFIG`, against a real cluster, in namespaces of
//! its own that it deletes: a difference there is devcluster's bug.

mod access;
mod custom;
mod deletion;
mod discovery;
mod events;
mod families;
mod lists;
mod managers;
mod mutants;
mod mutating;
mod objects;
mod owners;
mod patches;
mod scales;
mod services;
mod setup;
mod validating;
mod validation;
mod watches;
