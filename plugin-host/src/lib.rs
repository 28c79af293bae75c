//! Finds, checks, loads and calls resource-scaler plugins. (skeleton: the signatures stand, the bodies come)
#![allow(missing_docs, unused_variables, clippy::todo)]
use std::{io, path::{Path, PathBuf}, time::Duration};
use scaler_types::*;

/// What loading a folder gave.
pub struct Scan { pub plugins: Vec<Plugin>, pub rejected: Vec<Rejected> }
/// A file that was skipped, and why, in one line.
#[derive(Debug)]
pub struct Rejected { pub path: PathBuf, pub error: LoadError }
#[derive(Debug, thiserror::Error)]
pub enum LoadError { #[error("stub")] Stub }
/// A call that gave no answer of the plugin's own liking.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The plugin answered with an error, or panicked.
    #[error("{0}")]
    Plugin(String),
    #[error("no answer within {}", scaler_types::duration::short(*.0))]
    TimedOut(Duration),
    /// It timed out several times in a row; it is probed now and then.
    #[error("left alone after {0} calls without an answer")]
    LeftAlone(u32),
}
pub fn load_dir(dir: &Path) -> io::Result<Scan> { todo!() }
/// A loaded library. Never unloaded. Cheap to clone.
#[derive(Clone)]
pub struct Plugin {}
impl Plugin {
    pub fn kind(&self) -> &str { todo!() }
    pub fn path(&self) -> &Path { todo!() }
    /// Starts an instance for one namespace file; `Err`: it refused its configuration.
    pub async fn start(&self, context: PluginContext) -> Result<Instance, CallError> { todo!() }
}
/// One plugin at work for one namespace file. Cheap to clone; clones are equal.
#[derive(Clone)]
pub struct Instance {}
impl PartialEq for Instance { fn eq(&self, other: &Self) -> bool { todo!() } }
impl Instance {
    pub fn kind(&self) -> &str { todo!() }
    pub fn namespace(&self) -> &str { todo!() }
    pub async fn get_resources(&self) -> Result<Vec<Resource>, CallError> { todo!() }
    /// Bounded by the request's own deadline. A panic is `Retry`, a missing answer `Retry`.
    pub async fn set_scale(&self, request: &ScaleRequest) -> Result<(), ScaleError> { todo!() }
    pub async fn get_config(&self) -> Result<Option<ResourceScalerConfig>, CallError> { todo!() }
    pub async fn resolve_service_name(&self, resource: &ResourceId) -> Result<String, CallError> { todo!() }
    pub async fn changes(&self, cursor: u64) -> Result<Changes, CallError> { todo!() }
    pub async fn compare_and_set(&self, resource: &ResourceId, expected: &Version, row: &Row) -> Result<Version, ScaleError> { todo!() }
    pub async fn stop(&self) { todo!() }
}
