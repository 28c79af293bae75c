//! Daemons of an earlier version.

use std::{
    env,
    path::{Path, PathBuf},
};

use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{Part, Shop, link};

/// Names a folder with the daemons and plugins of an earlier version, as a build leaves them.
const FOLDER: &str = "SCALER_E2E_OLD_BIN";
/// The flags that it does not know.
const UNKNOWN: [&str; 4] = ["--service-ports=", "--route-grace=", "--dead-man-timeout=", "--dlx-service="];
/// Where its plugins lie, beside ours.
const PLUGINS: &str = "plugins-earlier";

/// Which daemons run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Those under test.
    Ours,
    /// Those of [`earlier`].
    Earlier,
}

/// The containers of both daemons as this version has them. To be read before the first of them is replaced.
#[derive(Debug)]
pub struct Versions {
    autoscaler: Value,
    dlx: Value,
}

/// Where daemons of an earlier version lie.
///
/// # Errors
///
/// Nobody says where: this is to be printed.
pub fn earlier() -> Result<PathBuf, String> {
    let folder = env::var_os(FOLDER).filter(|folder| !folder.is_empty()).map(PathBuf::from);
    folder.ok_or_else(|| format!("{FOLDER} names no folder with daemons of an earlier version"))
}

// === impl Versions ===

impl Versions {
    /// Puts the earlier version's programs beside those of a test that [`needs_devcluster`](crate::kubernetes::needs_devcluster).
    ///
    /// # Panics
    ///
    /// They are not all there.
    pub async fn new(shop: &Shop, earlier: &Path) -> Self {
        let programs = shop.folder().join("programs");
        std::fs::create_dir_all(programs.join(PLUGINS)).expect("creating the folder of the earlier plugins");
        for (built, name) in [
            ("autoscaler", "autoscaler-earlier".to_owned()),
            ("dlx", "dlx-earlier".to_owned()),
            ("libdeployment.so", format!("{PLUGINS}/deployment.so")),
        ] {
            link(&earlier.join(built), &programs.join(name));
        }
        let deployments: Api<Deployment> = Api::namespaced(shop.client.clone(), &shop.names().namespace);
        let container = async |part: Part| {
            let deployment = deployments.get(&part.deployment()).await.expect("a daemon's Deployment");
            let deployment = serde_json::to_value(&deployment).expect("a Deployment");
            deployment["spec"]["template"]["spec"]["containers"][0].clone()
        };
        Self { autoscaler: container(Part::Autoscaler).await, dlx: container(Part::Dlx).await }
    }

    /// Rolls a daemon out in another version, with the flags that it knows, and waits until all its pods are of that. The end of
    /// those that are told to go is not waited for.
    ///
    /// # Panics
    ///
    /// They do not become ready.
    pub async fn roll(&self, shop: &Shop, part: Part, version: Version) {
        let mut container = match part {
            Part::Autoscaler => &self.autoscaler,
            Part::Dlx => &self.dlx,
        }
        .clone();
        if version == Version::Earlier {
            container["image"] = json!(format!("devcluster/{}-earlier", part.name()));
            let arguments = container["args"].as_array_mut().expect("a daemon's arguments");
            let unknown = |argument: &Value| {
                argument.as_str().is_some_and(|text| UNKNOWN.iter().any(|flag| text.starts_with(flag)))
            };
            arguments.retain(|argument| !unknown(argument));
            arguments.push(json!(format!("--plugins-dir={PLUGINS}")));
        }
        let deployments: Api<Deployment> = Api::namespaced(shop.client.clone(), &shop.names().namespace);
        let before = deployments.get(&part.deployment()).await.expect("a daemon's Deployment");
        let replicas = before.spec.and_then(|spec| spec.replicas).unwrap_or_default();
        let patch = Patch::Merge(json!({"spec": {"template": {"spec": {"containers": [container]}}}}));
        let patched = deployments.patch(&part.deployment(), &PatchParams::default(), &patch).await;
        patched.expect("giving a daemon another version");
        shop.ready(part, replicas.unsigned_abs()).await;
    }
}
