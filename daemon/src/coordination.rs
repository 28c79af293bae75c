//! How the daemons know of each other: by locked files on one host, or by Leases in a cluster.

use std::{
    env, fs,
    hash::{BuildHasher, RandomState},
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process,
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::{coordination::v1::Lease, core::v1};
use kube::{Api, Client};
use tokio::{task::spawn_blocking, time::timeout};

use crate::{
    cluster,
    exit::Misconfigured,
    flags::CommonFlags,
    members::{Member, Registration, files, leases::Leases, serving::Serving},
};

/// How the daemons know of each other. Cheap to clone.
#[derive(Clone)]
pub enum Coordination {
    /// By locked files below this folder, the state folder: all of them are on one host.
    Files(PathBuf),
    /// By Leases in the namespace that they run in.
    Leases(Arc<Leases>),
}

/// Where in a cluster this process is, and who it is there.
#[derive(Clone)]
pub struct Home {
    /// The cluster.
    pub client: Client,
    /// The namespace of the daemons, not of what they look after: installations in two namespaces do not see each other.
    pub namespace: String,
    /// The pod this process runs in; `None`: it runs in none, and only it can say that it has ended.
    pub pod: Option<Pod>,
    /// This process among all that there ever were: a restarted container is another one.
    pub incarnation: String,
}

/// The pod this process runs in, as far as its environment says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its name: `POD_NAME`, else the hostname.
    pub name: String,
    /// `POD_UID`; else the API is asked.
    pub uid: Option<String>,
    /// `POD_IP`; else the API is asked.
    pub ip: Option<IpAddr>,
}

/// How long an API server may take to answer. It is asked for single small objects: one that takes longer is as good as away.
pub(crate) const CALL: Duration = Duration::from_secs(5);

// === impl Coordination ===

impl Coordination {
    /// As the flags and the environment say.
    ///
    /// # Errors
    ///
    /// A [`Misconfigured`]: by Leases, and there is no usable cluster.
    pub async fn of(flags: &CommonFlags, role: scaler_types::Role) -> anyhow::Result<Self> {
        Ok(match flags.coordination() {
            scaler_types::Coordination::Files => Self::Files(flags.state_dir.clone()),
            scaler_types::Coordination::Leases => {
                let home = Home::new(cluster::client(flags, role).await?, |name| env::var(name).ok())?;
                Self::Leases(Arc::new(Leases::new(home)))
            }
        })
    }

    /// Every live member, now, by name: who is silent is one, who is proved dead is none.
    ///
    /// # Errors
    ///
    /// They cannot be told, or not all of them. Then nobody knows who might hold a request.
    pub async fn members(&self) -> anyhow::Result<Vec<Member>> {
        match self {
            Self::Files(state_dir) => {
                let state_dir = state_dir.clone();
                Ok(spawn_blocking(move || files::read(&state_dir)).await??)
            }
            Self::Leases(leases) => leases.read().await,
        }
    }

    /// Follows which DLXs take requests, and which register. For who leads, while it leads: it costs two watches. To be called on a tokio runtime.
    pub fn serving(&self) -> Serving {
        match self {
            Self::Files(state_dir) => Serving::follow_files(state_dir.clone()),
            Self::Leases(leases) => Serving::follow(leases.home().clone()),
        }
    }

    /// Registers this process as a DLX whose admin server listens on `admin`, and that takes requests at `listen`. To be called
    /// before the first list of any plugin. By Leases it is tried until it succeeds, and `waiting` is told each reason why it did
    /// not yet.
    ///
    /// # Errors
    ///
    /// It cannot succeed: a folder that cannot be written, an address that nobody else can use.
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

// === impl Home ===

impl Home {
    /// As the environment says. `variable` reads one of it.
    ///
    /// # Errors
    ///
    /// A [`Misconfigured`]: a variable has a value that cannot be meant.
    pub fn new(client: Client, variable: impl Fn(&str) -> Option<String>) -> Result<Self, Misconfigured> {
        let variable = |name| variable(name).filter(|value| !value.is_empty());
        let ip = variable("POD_IP").map(|text| {
            text.parse().map_err(|_| {
                Misconfigured(format!("POD_IP={text}: expected an address; set it from status.podIP"))
            })
        });
        let name = variable("POD_NAME").or_else(|| {
            variable(cluster::IN_A_POD)?;
            // A pod's hostname is its name, unless its author or the host's network says otherwise.
            let hostname = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
            Some(hostname.trim().to_owned())
        });
        let pod = match name {
            Some(name) => Some(Pod { name, uid: variable("POD_UID"), ip: ip.transpose()? }),
            None => None,
        };
        let namespace = variable("POD_NAMESPACE").unwrap_or_else(|| client.default_namespace().to_owned());
        // A pod's name comes again with its container, a random number of 64 bits does not.
        let random = RandomState::new().hash_one(());
        let incarnation = match &pod {
            Some(pod) => format!("{}-{random:016x}", pod.name),
            None => format!("{}-{random:016x}", process::id()),
        };
        Ok(Self { client, namespace, pod, incarnation })
    }

    pub(crate) fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(crate) fn pods(&self) -> Api<v1::Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// A call, or an error after [`CALL`].
    pub(crate) async fn call<T>(&self, call: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
        match timeout(CALL, call).await {
            Ok(result) => result,
            Err(_) => {
                let late = io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no answer within {}", scaler_types::duration::short(CALL)),
                );
                Err(kube::Error::Service(Box::new(late)))
            }
        }
    }

    /// What went wrong with a call, and what to do about it. `verb` and `resource` as a Role names them.
    pub(crate) fn explain(&self, verb: &str, resource: &str, error: &kube::Error) -> String {
        let namespace = &self.namespace;
        match error {
            kube::Error::Api(status) if status.code == 401 => format!(
                "the cluster does not know who asks ({}): is the service account's token expired or of another cluster?",
                status.message
            ),
            kube::Error::Api(status) if status.is_forbidden() => format!(
                "not allowed to {verb} {resource} in namespace {namespace}: the Role of the daemon's service account \
                 there needs the verb {verb} on {resource} ({})",
                status.message
            ),
            kube::Error::Api(status) => {
                format!(
                    "cannot {verb} {resource} in namespace {namespace}: {} {}",
                    status.code, status.message
                )
            }
            error => format!("cannot {verb} {resource} in namespace {namespace}: {}", cluster::causes(error)),
        }
    }
}
