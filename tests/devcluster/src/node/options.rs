//! What a test sets of a node, before and while it runs.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

/// How a node is set up.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// The Node object's name.
    pub name: String,
    /// Beside `kubernetes.io/hostname`, `kubernetes.io/os` and `kubernetes.io/arch`.
    pub labels: BTreeMap<String, String>,
    /// Where the programs lie that are images here: `devcluster/hello:v2` is the file `hello`. It is also the folder that
    /// processes start in when their container names none.
    pub programs: PathBuf,
    /// Further images by their whole names, with the programs that stand in for them.
    pub images: BTreeMap<String, String>,
    /// Where volumes and logs lie; a temporary folder if none is given.
    pub folder: Option<PathBuf>,
    /// The API server as pods reach it, e.g. `http://127.0.0.1:6443`.
    pub server: String,
    /// Set for every process, over the little that is inherited (`PATH`, `RUST_BACKTRACE`).
    pub environment: Vec<(String, String)>,
    /// Whether pods get an address of IPv6 beside that of IPv4, the last part of which it ends with.
    pub dual_stack: bool,
    /// How many pods it takes; kubelet's own default is 110.
    pub capacity: usize,
    /// The first back-off of a crashing container; each crash doubles it, up to 30 times this. The kubelet's is 10 s.
    pub crash_backoff: Duration,
    /// The same for pulling images that are not there.
    pub pull_backoff: Duration,
    /// Whether a container that was never ready is probed again a few milliseconds after a probe that failed. The kubelet
    /// waits for its period (at least 1 s), which only costs a test time, unless that is what it is about.
    pub eager_probes: bool,
}

/// Faults that can be ordered while the node runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeFaults {
    /// How long it takes to pull an image that the node has not yet pulled.
    pub image_pull: Duration,
    /// How long it takes from the image to the process.
    pub start: Duration,
    /// How late the kubelet reports to the API what it has seen.
    pub status: Duration,
}

// === impl NodeOptions ===

impl NodeOptions {
    /// A node named `node-1`, whose pods find the API at `server`, that takes 110 pods and backs off as the kubelet does.
    pub fn new(programs: impl AsRef<Path>, server: impl Into<String>) -> Self {
        Self {
            name: "node-1".into(),
            labels: BTreeMap::new(),
            programs: programs.as_ref().to_owned(),
            images: BTreeMap::new(),
            folder: None,
            server: server.into(),
            environment: Vec::new(),
            dual_stack: false,
            capacity: 110,
            crash_backoff: Duration::from_secs(10),
            pull_backoff: Duration::from_secs(10),
            eager_probes: true,
        }
    }
}
