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
use crate::kubernetes::kubeconfig;

/// Names a folder with the daemons and plugins of an earlier version, as a build leaves them.
const FOLDER: &str = "SCALER_E2E_OLD_BIN";
/// Name its images, in a cluster that is there.
const IMAGES: [&str; 2] = ["SCALER_E2E_OLD_IMAGE_AUTOSCALER", "SCALER_E2E_OLD_IMAGE_DLX"];
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
    earlier: Earlier,
}

/// The daemons of an earlier version.
#[derive(Clone, Debug)]
pub enum Earlier {
    /// Programs in this folder, for devcluster.
    Folder(PathBuf),
    /// The images of autoscaler and DLX, for a cluster that is there.
    Images([String; 2]),
}

/// The daemons of an earlier version, as the environment names them.
///
/// # Errors
///
/// It does not: this is to be printed.
pub fn earlier() -> Result<Earlier, String> {
    let named = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    if kubeconfig().is_some() {
        let [autoscaler, dlx] = IMAGES.map(named);
        let images = autoscaler.zip(dlx).map(|(autoscaler, dlx)| Earlier::Images([autoscaler, dlx]));
        return images
            .ok_or_else(|| format!("{} do not name images of an earlier version", IMAGES.join(", ")));
    }
    let folder = named(FOLDER).map(|folder| Earlier::Folder(folder.into()));
    folder.ok_or_else(|| format!("{FOLDER} names no folder with daemons of an earlier version"))
}

// === impl Versions ===

impl Versions {
    /// Reads the containers. On devcluster it puts the earlier version's programs beside those of this one.
    ///
    /// # Panics
    ///
    /// They are not all there.
    pub async fn new(shop: &Shop, earlier: Earlier) -> Self {
        if let Earlier::Folder(folder) = &earlier {
            link_all(shop, folder);
        }
        let deployments: Api<Deployment> = Api::namespaced(shop.client.clone(), &shop.names().namespace);
        let container = async |part: Part| {
            let deployment = deployments.get(&part.deployment()).await.expect("a daemon's Deployment");
            let deployment = serde_json::to_value(&deployment).expect("a Deployment");
            deployment["spec"]["template"]["spec"]["containers"][0].clone()
        };
        Self { autoscaler: container(Part::Autoscaler).await, dlx: container(Part::Dlx).await, earlier }
    }

    /// Rolls a daemon out in another version and waits until all its pods are of that. The end of
    /// those that are being stopped is not waited for.
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
            let arguments = container["args"].as_array_mut().expect("a daemon's arguments");
            match &self.earlier {
                Earlier::Folder(_) => {
                    arguments.push(json!(format!("--plugins-dir={PLUGINS}")));
                    container["image"] = json!(format!("devcluster/{}-earlier", part.name()));
                }
                Earlier::Images([autoscaler, dlx]) => {
                    container["image"] = json!(if part == Part::Dlx { dlx } else { autoscaler });
                }
            }
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

/// Puts the earlier version's programs beside those that devcluster's pods run.
fn link_all(shop: &Shop, folder: &Path) {
    let programs = shop.folder().join("programs");
    std::fs::create_dir_all(programs.join(PLUGINS)).expect("creating the folder of the earlier plugins");
    for (built, name) in [
        ("autoscaler", "autoscaler-earlier".to_owned()),
        ("dlx", "dlx-earlier".to_owned()),
        ("libdeployment.so", format!("{PLUGINS}/deployment.so")),
    ] {
        link(&folder.join(built), &programs.join(name));
    }
}
