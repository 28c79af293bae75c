//! Which DLXs there are. Without a cluster: a locked file per incarnation under `<state-dir>/members`.
use std::{io, net::SocketAddr, path::Path};
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Member { pub name: String, pub admin: SocketAddr }
/// Registered until dropped (or the process dies: the kernel frees the lock).
pub struct Registration {}
/// Registers a new incarnation. To be called before the first list of any plugin.
pub fn register(state_dir: &Path, admin: SocketAddr) -> io::Result<Registration> { todo!() }
impl Registration { pub fn name(&self) -> &str { todo!() } }
/// Every live member, now: removes what is proved dead, keeps what is silent.
pub fn read(state_dir: &Path) -> io::Result<Vec<Member>> { todo!() }
