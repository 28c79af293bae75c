//! How the daemons know of each other: by locked files on one host, or by Leases in a cluster.

use std::{env, net::SocketAddr, path::PathBuf, sync::Arc};

use tokio::task::spawn_blocking;

use crate::{
    cluster::{self, OwnNamespace},
    flags::CommonFlags,
    members::{Member, Registration, files, leases::Leases, serving::Serving},
};

/// How the daemons know of each other. Cheap to clone.
#[derive(Clone)]
pub enum Coordinator {
    /// By locked files below this folder, the state folder: all of them are on one host.
    Files(PathBuf),
    /// By Leases in the namespace that they run in.
    Leases(Arc<Leases>),
}

// === impl Coordinator ===

impl Coordinator {
    /// As the flags and the environment say.
    ///
    /// # Errors
    ///
    /// A [`Misconfigured`]: by Leases, and there is no usable cluster.
    pub async fn from_flags(flags: &CommonFlags, role: scaler_types::Role) -> anyhow::Result<Self> {
        Ok(match flags.coordination() {
            scaler_types::Coordination::Files => Self::Files(flags.state_dir.clone()),
            scaler_types::Coordination::Leases => {
                let client = cluster::client(flags.kubeconfig(), role).await?;
                Self::Leases(Arc::new(Leases::new(OwnNamespace::new(client, |name| env::var(name).ok())?)))
            }
        })
    }

    /// Every live member, now, by name: who is silent is one, who is proved dead is none.
    ///
    /// # Errors
    ///
    /// Not all of them could be read: any other might hold a request.
    pub async fn members(&self) -> anyhow::Result<Vec<Member>> {
        match self {
            Self::Files(state_dir) => {
                let state_dir = state_dir.clone();
                Ok(spawn_blocking(move || files::read(&state_dir)).await??)
            }
            Self::Leases(leases) => leases.read().await,
        }
    }

    /// Follows which DLXs take requests, and which register. For the leader, while it is: it costs two watches. To be called on a tokio runtime.
    pub fn serving(&self) -> Serving {
        match self {
            Self::Files(state_dir) => Serving::follow_files(state_dir.clone()),
            Self::Leases(leases) => Serving::follow(leases.own_namespace().clone()),
        }
    }

    /// Registers this process as a DLX whose admin server listens on `admin`, and that takes requests at `listen`. To be called
    /// before the first list of any plugin. By Leases it is tried until it succeeds, and `waiting` is called with each reason why it did
    /// not yet.
    ///
    /// # Errors
    ///
    /// It cannot succeed: a folder that cannot be written, an address that no other host can use.
    pub async fn register(
        &self,
        admin: SocketAddr,
        listen: SocketAddr,
        waiting: impl Fn(String),
    ) -> anyhow::Result<Registration> {
        match self {
            Self::Files(state_dir) => Ok(Registration::File(files::register(state_dir, admin)?)),
            Self::Leases(leases) => {
                Ok(Registration::Lease(leases.register(admin, listen, waiting).await?.into()))
            }
        }
    }
}
