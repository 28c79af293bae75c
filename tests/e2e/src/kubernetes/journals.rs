//! What the workloads of a shop write down, and where.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use serde_json::json;

use super::{Names, objects, workload::PORT};
use crate::{journal::Journal, until};

/// The port on which the collecting pod receives what to write down.
const COLLECT: u16 = 8081;
/// That pod's name.
const NAME: &str = "journals";

/// Where it is written down.
#[derive(Clone, Debug)]
pub enum Journals {
    /// In a folder that the pods of devcluster have in common with the test.
    Folder(PathBuf),
    /// In a pod beside the workloads, which outlives theirs: its address.
    Pod(SocketAddr),
}

// === impl Journals ===

impl Journals {
    /// Starts the pod that collects.
    ///
    /// # Panics
    ///
    /// It does not come up, or cannot be reached from here.
    pub async fn start(client: &Client, names: &Names) -> Self {
        let (port, collect) = (PORT.to_string(), COLLECT.to_string());
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": NAME, "namespace": names.namespace, "labels": {"app": NAME}},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "containers": [{
                    "name": "service", "image": names.service, "imagePullPolicy": "IfNotPresent",
                    "args": ["--address", "$(POD_IP)", "--port", port, "--collect", collect],
                    "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                }],
            },
        });
        objects::create(client, &pod).await;
        let pods: Api<Pod> = Api::namespaced(client.clone(), &names.namespace);
        let address = until("the pod that collects the journals to be reached at its address", || async {
            let status = pods.get(NAME).await.map_err(|error| error.to_string())?.status.unwrap_or_default();
            let address = status.pod_ip.as_ref().and_then(|address| address.parse().ok());
            let address = SocketAddr::new(address.ok_or_else(|| format!("{status:?}"))?, PORT);
            fetch(address, "unknown").map_err(|error| format!("{address}: {error}; {status:?}"))?;
            Ok(address)
        })
        .await;
        Self::Pod(address)
    }

    /// What the service is to take for its `--journal`.
    pub fn of(&self, name: &str) -> String {
        match self {
            Self::Folder(folder) => file(folder, name).display().to_string(),
            Self::Pod(address) => format!("tcp:{}", SocketAddr::new(address.ip(), COLLECT)),
        }
    }

    /// What a workload has written down so far.
    ///
    /// # Panics
    ///
    /// The pod does not answer, or a line makes no sense.
    pub fn read(&self, name: &str) -> Journal {
        match self {
            Self::Folder(folder) => Journal::read(&file(folder, name)),
            Self::Pod(address) => {
                let text = fetch(*address, name);
                Journal::parse(
                    &text.unwrap_or_else(|error| panic!("asking {address} for {name}'s journal: {error}")),
                )
            }
        }
    }
}

fn file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.journal"))
}

/// One journal, from the pod that has them all.
fn fetch(address: SocketAddr, name: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(
        format!("GET /journal/{name} HTTP/1.1\r\nHost: journals\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(std::io::Error::other(format!("it answered {head:?}")));
    }
    Ok(body.to_owned())
}
