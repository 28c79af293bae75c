//! One pod on the node, from its coming to its deletion.

use std::{path::PathBuf, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::Instant,
};

use super::{Shared, container::Life, ending::grace_of, environment::Place, status::Known};
use crate::cache::rest;

/// The pauses after errors of the API.
pub const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// A pod as the API last said it.
#[derive(Clone)]
pub struct Seen {
    pub pod: Arc<Pod>,
    /// It is no longer in the API.
    pub gone: bool,
}

/// What cares for one pod.
struct Worker {
    node: Arc<Shared>,
    seen: watch::Receiver<Seen>,
    known: Known,
    /// Passes the newest status to the writer.
    publish: watch::Sender<Option<PodStatus>>,
    publisher: JoinHandle<()>,
    stop: watch::Sender<Option<Instant>>,
    /// Its service account's.
    token: String,
    reports: (mpsc::UnboundedSender<ContainerStatus>, mpsc::UnboundedReceiver<ContainerStatus>),
}

/// Runs a pod until it is gone.
pub async fn run(node: Arc<Shared>, seen: watch::Receiver<Seen>) {
    let pod = Arc::clone(&seen.borrow().pod);
    if is_over(&pod) {
        let mut seen = seen;
        let _ = seen.wait_for(|seen| seen.gone || is_deleted(&seen.pod)).await;
        let gone = seen.borrow().gone;
        if !gone {
            remove(&node, &pod).await;
        }
        return;
    }
    let Some(address) = node.lock().addresses.take() else {
        tracing::error!("no pod address is left of {}", crate::netns::POD_NETWORK);
        return;
    };
    let folder = node.folder_of(&pod);
    let (publish, statuses) = watch::channel(None);
    let publisher = tokio::spawn(write_statuses(Arc::clone(&node), Arc::clone(&pod), statuses));
    let worker = Worker {
        known: Known::new(&pod),
        node: Arc::clone(&node),
        seen,
        publish,
        publisher,
        stop: watch::channel(None).0,
        token: String::new(),
        reports: mpsc::unbounded_channel(),
    };
    worker.run(&address.to_string(), folder.join("volumes")).await;
    node.lock().addresses.give_back(address);
    let _ = std::fs::remove_dir_all(folder);
}

/// Succeeded or Failed: it never runs again.
pub fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn is_deleted(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

// === impl Worker ===

impl Worker {
    async fn run(mut self, address: &str, volumes: PathBuf) {
        self.publish_status();
        self.look();
        let pod = self.pod();
        if self.mount(address, &volumes).await {
            // Reported before anything listens there, as the kubelet does while an image is pulled.
            self.known.addresses = self.node.addresses(address);
            self.publish_status();
            let inits = pod.spec.iter().flat_map(|spec| spec.init_containers.clone().unwrap_or_default());
            let mut well = true;
            for (at, container) in inits.enumerate() {
                let status = self.known.init[at].clone();
                let life = self.life(container, true, address, &volumes, status);
                let mut one = JoinSet::new();
                one.spawn(life.run());
                well = self.follow(one, address, &volumes).await;
                if !well {
                    break;
                }
            }
            if well && self.stop.borrow().is_none() {
                self.known.initialized = true;
                let mut all = JoinSet::new();
                let containers = pod.spec.iter().flat_map(|spec| spec.containers.clone());
                for (at, container) in containers.enumerate() {
                    let status = self.known.containers[at].clone();
                    all.spawn(self.life(container, false, address, &volumes, status).run());
                }
                self.follow(all, address, &volumes).await;
            }
        }
        self.finish().await;
    }

    fn pod(&self) -> Arc<Pod> {
        Arc::clone(&self.seen.borrow().pod)
    }

    fn life(
        &self,
        spec: k8s_openapi::api::core::v1::Container,
        init: bool,
        address: &str,
        volumes: &std::path::Path,
        status: ContainerStatus,
    ) -> Life {
        Life {
            node: Arc::clone(&self.node),
            pod: self.pod(),
            spec,
            init,
            address: address.to_owned(),
            volumes: volumes.to_owned(),
            status,
            reports: self.reports.0.clone(),
            stop: self.stop.subscribe(),
        }
    }

    /// Makes the volumes, waiting for what they are made of. `false`: the pod is to end.
    async fn mount(&mut self, address: &str, volumes: &std::path::Path) -> bool {
        let node = Arc::clone(&self.node);
        let pod = self.pod();
        let token = node.token(&pod);
        tokio::pin!(token);
        while self.stop.borrow().is_none() && self.token.is_empty() {
            tokio::select! {
                token = &mut token => self.token = token,
                _ = self.seen.changed() => self.look(),
            }
        }
        let mut changed = node.config.changed.subscribe();
        while self.stop.borrow().is_none() {
            match self.refresh(address, volumes) {
                Ok(()) => return true,
                Err(missing) => tracing::debug!(why = missing.0, "a pod's volumes cannot be made yet"),
            }
            tokio::select! {
                _ = changed.changed() => {}
                _ = self.seen.changed() => self.look(),
            }
        }
        false
    }

    fn refresh(&self, address: &str, volumes: &std::path::Path) -> Result<(), super::config::Missing> {
        let pod = self.pod();
        let place = Place {
            pod: &pod,
            addresses: &self.node.addresses(address),
            node: &self.node.options.name,
            token: &self.token,
            programs: &self.node.options.programs,
            images: &self.node.options.images,
            base: Default::default(),
        };
        self.node.write_kubeconfig(&pod, &self.token)?;
        self.node.config.volumes(&pod, volumes, &place)
    }

    /// Publishes what containers report until all of `lives` are over. Whether all ended well.
    async fn follow(&mut self, mut lives: JoinSet<bool>, address: &str, volumes: &std::path::Path) -> bool {
        let node = Arc::clone(&self.node);
        let mut changed = node.config.changed.subscribe();
        let mut well = true;
        loop {
            tokio::select! {
                biased;
                Some(status) = self.reports.1.recv() => self.report(status),
                _ = self.seen.changed() => self.look(),
                _ = changed.changed() => {
                    // As the kubelet: what cannot be made anew stays as it was.
                    if let Err(missing) = self.refresh(address, volumes) {
                        tracing::debug!(why = missing.0, "a pod's volumes are not brought up to date");
                    }
                }
                ended = lives.join_next() => match ended {
                    Some(ended) => well &= ended.unwrap_or(false),
                    None => return well,
                },
            }
        }
    }

    fn report(&mut self, status: ContainerStatus) {
        let all = self.known.init.iter_mut().chain(&mut self.known.containers);
        for known in all.filter(|known| known.name == status.name) {
            known.clone_from(&status);
        }
        // Several containers may have reported: their news go out together.
        if self.reports.1.is_empty() {
            self.publish_status();
        }
    }

    fn publish_status(&mut self) {
        let pod = self.pod();
        self.publish.send_replace(Some(self.known.status(&pod)));
    }

    /// Looks whether the API wants the pod to end.
    fn look(&mut self) {
        let seen = self.seen.borrow_and_update().clone();
        if seen.gone || is_deleted(&seen.pod) {
            let deadline = Instant::now() + grace_of(&seen.pod);
            // Asked again: the earlier end counts.
            self.stop.send_if_modified(|known| {
                let sooner = known.is_none_or(|known| deadline < known);
                if sooner {
                    *known = Some(deadline);
                }
                sooner
            });
        }
    }

    /// All containers are over: the last status, and then the deletion.
    async fn finish(mut self) {
        while let Ok(status) = self.reports.1.try_recv() {
            self.report(status);
        }
        self.publish_status();
        let _ = self.seen.wait_for(|seen| seen.gone || is_deleted(&seen.pod)).await;
        self.publish_status();
        let (pod, gone) = (self.pod(), self.seen.borrow().gone);
        // It writes what it was given last, and ends.
        drop(self.publish);
        if gone {
            self.publisher.abort();
            return;
        }
        let publisher = self.publisher.abort_handle();
        let gone = async {
            let _ = self.seen.wait_for(|seen| seen.gone).await;
        };
        tokio::select! {
            _ = self.publisher => remove(&self.node, &pod).await,
            () = gone => publisher.abort(),
        }
    }
}

/// Writes the newest status, as long as there may be a newer one.
async fn write_statuses(node: Arc<Shared>, pod: Arc<Pod>, mut statuses: watch::Receiver<Option<PodStatus>>) {
    let (pods, name) = (node.pods_of(&pod), pod.metadata.name.clone().unwrap_or_default());
    let mut pause = PAUSE.0;
    let mut written = None;
    while statuses.changed().await.is_ok() {
        let delay = node.faults().status;
        if !delay.is_zero() {
            rest(delay).await;
        }
        loop {
            let status = statuses.borrow_and_update().clone();
            if status == written {
                break;
            }
            // The uid: a later pod of this name has a status of its own.
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": &status});
            match pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
                Ok(_) => {
                    written = status;
                    pause = PAUSE.0;
                }
                Err(kube::Error::Api(refused)) if refused.code == 404 => break,
                Err(error) => {
                    tracing::debug!(pod = name, %error, "a status could not be written, it is tried again");
                    rest(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }
}

/// Takes the pod from the API, now that nothing of it runs.
async fn remove(node: &Shared, pod: &Pod) {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let now = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), ..Default::default() }),
        ..Default::default()
    };
    let mut pause = PAUSE.0;
    loop {
        match node.pods_of(pod).delete(&name, &now).await {
            Ok(_) => return,
            Err(kube::Error::Api(refused)) if refused.code == 404 => return,
            // A conflict may mean that another pod has the name by now.
            Err(kube::Error::Api(refused)) if refused.code == 409 && !node.is_there(pod).await => return,
            Err(error) => {
                tracing::debug!(pod = name, %error, "a pod could not be removed, it is tried again");
                rest(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
}
