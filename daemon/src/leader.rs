//! One autoscaler leads. Without a cluster: a locked file under the state folder.
use std::{io, path::Path};
pub struct Leadership {}
/// Waits (without polling) until this process leads; leads until dropped or the process ends.
pub async fn acquire(state_dir: &Path) -> io::Result<Leadership> { todo!() }
