//! The namespace that the daemons run in, not those of the workloads that they manage.

use std::{
    fmt, fs,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    process,
    time::Duration,
};

use k8s_openapi::api::{coordination::v1::Lease, core::v1};
use kube::{Api, Client};
use kube_watch::with_timeout;

use super::{IN_A_POD, causes};
use crate::exit::Misconfigured;

/// The namespace that the daemons run in, and this process in it.
#[derive(Clone)]
pub struct OwnNamespace {
    /// The cluster.
    pub client: Client,
    /// Its name. Installations in two namespaces do not see each other.
    pub(crate) namespace: String,
    /// The pod this process runs in; `None`: it runs in none, and only it can say that it has ended.
    pub(crate) pod: Option<OwnPod>,
    /// This process among all that there ever were: a restarted container is another one.
    pub(crate) incarnation: String,
}

/// The pod this process runs in, as far as its environment says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OwnPod {
    /// Its name: `POD_NAME`, else the hostname.
    pub(crate) name: String,
    /// `POD_UID`; else the API is asked.
    pub(crate) uid: Option<String>,
    /// `POD_IP`; else the API is asked.
    pub(crate) ip: Option<IpAddr>,
}

/// A call of the cluster's API that failed. The text has all its causes.
#[derive(Debug, thiserror::Error)]
pub(crate) struct ApiError {
    verb: &'static str,
    resource: &'static str,
    namespace: String,
    source: kube::Error,
}

/// How long an API server may take to answer. It is asked for single small objects: one that takes longer is as good as away.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

// === impl OwnNamespace ===

impl OwnNamespace {
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
            variable(IN_A_POD)?;
            // A pod's hostname is its name, unless its author or the host's network says otherwise.
            let hostname = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
            Some(hostname.trim().to_owned())
        });
        let pod = match name {
            Some(name) => Some(OwnPod { name, uid: variable("POD_UID"), ip: ip.transpose()? }),
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

    /// A call, or an error after [`CALL_TIMEOUT`].
    pub(crate) async fn call<T>(&self, call: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
        with_timeout(CALL_TIMEOUT, call).await
    }

    /// The failure of a call, and what to do about it. `verb` and `resource` as a Role names them.
    pub(crate) fn error(&self, verb: &'static str, resource: &'static str, source: kube::Error) -> ApiError {
        ApiError { verb, resource, namespace: self.namespace.clone(), source }
    }
}

// === impl ApiError ===

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verb, resource, namespace, source } = self;
        match source {
            kube::Error::Api(status) if status.code == 401 => write!(
                f,
                "the cluster refuses the credentials of this daemon ({}): is the service account's token expired or of another cluster?",
                status.message
            ),
            kube::Error::Api(status) if status.is_forbidden() => write!(
                f,
                "not allowed to {verb} {resource} in namespace {namespace}: the Role of the daemon's service account \
                 there needs the verb {verb} on {resource} ({})",
                status.message
            ),
            kube::Error::Api(status) => write!(
                f,
                "cannot {verb} {resource} in namespace {namespace}: {} {}",
                status.code, status.message
            ),
            error => write!(f, "cannot {verb} {resource} in namespace {namespace}: {}", causes(error)),
        }
    }
}
