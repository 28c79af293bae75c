//! Which DLXs there are. Each incarnation registers before the first list of any plugin and leaves after its last request.
//!
//! Dead is only what is proved dead, never what is silent: no heartbeat is asked for, and one that hangs is a member
//! until its process is known to have ended.

pub mod files;
pub mod leases;
pub mod registered;
pub mod serving;

use std::net::SocketAddr;

/// One DLX incarnation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Member {
    /// Unique among all incarnations there ever were.
    pub name: String,
    /// Where its admin server can be reached.
    #[serde(rename = "admin_address")]
    pub admin: SocketAddr,
}

/// This process is a member until it leaves, or is known to have ended.
pub enum Registration {
    /// By a locked file.
    File(files::MemberFile),
    /// By a Lease.
    Lease(Box<leases::MemberLease>),
}

// === impl Registration ===

impl Registration {
    /// The name under which others know this incarnation.
    pub fn name(&self) -> &str {
        match self {
            Self::File(file) => file.name(),
            Self::Lease(lease) => lease.name(),
        }
    }

    /// Not a member any more. To be called when nothing is in flight here and nothing more can come.
    pub async fn leave(self) {
        match self {
            Self::File(file) => drop(file),
            Self::Lease(lease) => lease.leave().await,
        }
    }
}
