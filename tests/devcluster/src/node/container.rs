//! One container's life: image, configuration, process, probes, restarts.

use std::{
    fs::OpenOptions,
    future::{Future, pending},
    path::PathBuf,
    pin::Pin,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, Pod,
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    Shared,
    backoff::Backoff,
    ending::{changed_stop, end, grace_of, stopped},
    environment::{Launch, Mounts, Place, program_of},
    probe::{self, Finding, Purpose, Target},
    process::{Ended, Process},
    status::now,
};
use crate::cache::rest;

/// How long an image pull's error is shown, at most, before it becomes a back-off.
const SEEN: Duration = Duration::from_millis(200);

/// A container of a pod on this node.
pub struct Life {
    pub node: Arc<Shared>,
    pub pod: Arc<Pod>,
    pub spec: Container,
    /// An init container: it is to come to its end.
    pub init: bool,
    pub address: String,
    /// Where the pod's volumes lie.
    pub volumes: PathBuf,
    pub status: ContainerStatus,
    /// Each change of the status.
    pub reports: mpsc::UnboundedSender<ContainerStatus>,
    /// When the pod has to have ended.
    pub stop: watch::Receiver<Option<Instant>>,
}

type Probing<'a> = Option<Pin<Box<dyn Future<Output = ()> + Send + 'a>>>;

// === impl Life ===

impl Life {
    /// Until it ends for good. Whether it succeeded.
    pub async fn run(mut self) -> bool {
        let mut crashes = Backoff::new(self.node.options.crash_backoff);
        loop {
            let Some(launch) = self.prepare().await else { return false };
            let began = Instant::now();
            let ended = self.process(launch).await;
            let succeeded = ended.is_some_and(|ended| ended.code == 0);
            if self.stopping() || !self.again(succeeded) {
                return succeeded;
            }
            if began.elapsed() > crashes.longest() * 2 {
                crashes.failures = 0;
            }
            // The first restart is at once.
            if let Some(pause) = crashes.next() {
                let meta = &self.pod.metadata;
                let message = format!(
                    "back-off {pause:?} restarting failed container={} pod={}_{}({})",
                    self.spec.name,
                    meta.name.as_deref().unwrap_or_default(),
                    meta.namespace.as_deref().unwrap_or_default(),
                    meta.uid.as_deref().unwrap_or_default(),
                );
                self.status.last_state = self.status.state.take();
                self.wait_as("CrashLoopBackOff", Some(message));
                if !self.rest(pause).await {
                    return false;
                }
            }
            self.status.restart_count += 1;
        }
    }

    /// The image pulled, the configuration found. `None`: the pod is to end.
    async fn prepare(&mut self) -> Option<Launch> {
        let image = self.spec.image.clone().unwrap_or_default();
        let mut failures = Backoff { failures: 1, first: self.node.options.pull_backoff };
        let mut delayed = false;
        loop {
            let path = program_of(&image, &self.node.options.images)
                .map(|program| self.node.options.programs.join(program));
            let known = self.node.pulled(&image);
            if !known && !delayed {
                delayed = true;
                if !self.rest(self.node.faults().image_pull).await {
                    return None;
                }
            }
            if path.is_some_and(|path| path.is_file()) {
                self.node.pulled_now(&image);
                break;
            }
            let why = format!(
                "failed to pull and unpack image \"{image}\": failed to resolve reference \"{image}\": {image}: not found"
            );
            self.wait_as("ErrImagePull", Some(why.clone()));
            let pause = failures.next().unwrap_or_default();
            // Both are seen, as they are in the real one.
            let error = (pause / 10).min(SEEN);
            if !self.rest(error).await {
                return None;
            }
            self.wait_as(
                "ImagePullBackOff",
                Some(format!("Back-off pulling image \"{image}\": ErrImagePull: {why}")),
            );
            if !self.rest(pause - error).await {
                return None;
            }
        }
        loop {
            let mut changed = self.node.config.changed.subscribe();
            match self.launch() {
                Ok(launch) => return Some(launch),
                Err(missing) => self.wait_as("CreateContainerConfigError", Some(missing.0)),
            }
            tokio::select! {
                _ = changed.changed() => {}
                () = stopped(&mut self.stop) => return None,
            }
        }
    }

    fn launch(&self) -> Result<Launch, super::config::Missing> {
        let place = Place {
            pod: &self.pod,
            addresses: &self.node.addresses(&self.address),
            node: &self.node.options.name,
            token: "",
            programs: &self.node.options.programs,
            images: &self.node.options.images,
            base: self.node.base_environment(&self.pod, &self.address),
        };
        Launch::new(&self.spec, &place, &self.mounts(), &self.node.config)
    }

    fn mounts(&self) -> Mounts {
        Mounts::new(&self.spec, &self.volumes)
    }

    /// From its start to its end. `None`: it did not start.
    async fn process(&mut self, launch: Launch) -> Option<Ended> {
        if !self.rest(self.node.faults().start).await {
            return None;
        }
        let began = now();
        let process = match self.start(&launch).await {
            Ok(process) => process,
            Err(error) => {
                let why = format!("starting {}: {error}", launch.program.display());
                self.terminated(Ended { code: 128, signal: None }, "StartError", Some(why), began);
                return None;
            }
        };
        let id = format!(
            "devcluster://{}-{}-{}",
            self.pod.metadata.uid.as_deref().unwrap_or_default(),
            self.spec.name,
            self.status.restart_count
        );
        self.node.started(&self.pod, &self.spec.name, process.id);
        if self.status.state.as_ref().is_some_and(|state| state.terminated.is_some()) {
            self.status.last_state = self.status.state.take();
        }
        self.status.container_id = Some(id);
        self.status.state = Some(ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(began.clone()) }),
            ..Default::default()
        });
        self.status.started = Some(self.spec.startup_probe.is_none() || self.init);
        self.status.ready = self.ready_without_probe() && !self.init;
        self.report();
        let ended = self.keep(&process, &launch).await;
        self.node.ended(&self.pod, &self.spec.name);
        let reason = if ended.code == 0 { "Completed" } else { "Error" };
        self.terminated(ended, reason, None, began);
        Some(ended)
    }

    /// Probes it while it runs, ends it when it is to end.
    async fn keep(&mut self, process: &Process, launch: &Launch) -> Ended {
        let node = Arc::clone(&self.node);
        let (spec, address, mounts) = (self.spec.clone(), self.address.clone(), self.mounts());
        let command = |words: &[String]| launch.instead(words, &node.options.programs, &mounts);
        let target =
            Target { container: &spec, address: &address, command: &command, processes: &node.processes };
        let (sender, mut findings) = mpsc::unbounded_channel::<Finding>();
        let eager = node.options.eager_probes;
        let watch = |purpose, probe: &Option<_>| -> Probing<'_> {
            let probe: &k8s_openapi::api::core::v1::Probe = probe.as_ref()?;
            // Lives as long as the borrowed specification above.
            let probe = probe.clone();
            let (target, sender) = (&target, &sender);
            Some(Box::pin(async move { probe::watch(purpose, &probe, target, eager, sender).await }))
        };
        let mut startup = watch(Purpose::Startup, &spec.startup_probe).filter(|_| !self.init);
        let started = startup.is_none() && !self.init;
        let mut readiness = watch(Purpose::Readiness, &spec.readiness_probe).filter(|_| started);
        let mut liveness = watch(Purpose::Liveness, &spec.liveness_probe).filter(|_| started);
        let (deadline, deadlines) = watch::channel(None::<Instant>);
        let mut ending: Probing<'_> = None;
        let (mut stop, mut stop_at) = (self.stop.clone(), None);
        loop {
            let finding = tokio::select! {
                ended = process.ended() => {
                    return ended.unwrap_or(Ended { code: 137, signal: None });
                }
                Some(finding) = findings.recv() => finding,
                () = poll(&mut startup) => { startup = None; continue }
                () = poll(&mut readiness) => { readiness = None; continue }
                () = poll(&mut liveness) => { liveness = None; continue }
                () = poll(&mut ending) => { ending = None; continue }
                () = changed_stop(&mut stop, stop_at) => {
                    stop_at = *stop.borrow();
                    deadline.send_replace(stop_at);
                    // What ends is no longer looked after, but clients may still want to know whether it is ready.
                    (startup, liveness) = (None, None);
                    if ending.is_none() {
                        ending = Some(Box::pin(end(process, &target, deadlines.clone())));
                    }
                    continue;
                }
            };
            match finding {
                Finding { purpose: Purpose::Startup, passed: true } => {
                    self.status.started = Some(true);
                    self.status.ready = spec.readiness_probe.is_none();
                    self.report();
                    readiness = watch(Purpose::Readiness, &spec.readiness_probe);
                    liveness = watch(Purpose::Liveness, &spec.liveness_probe);
                }
                Finding { purpose: Purpose::Readiness, passed } => {
                    if self.status.ready != passed {
                        self.status.ready = passed;
                        self.report();
                    }
                }
                Finding { purpose: Purpose::Liveness, passed: true } => {}
                Finding { purpose: Purpose::Startup | Purpose::Liveness, passed: false } => {
                    (startup, liveness) = (None, None);
                    let grace = grace_of(&self.pod);
                    deadline.send_if_modified(|deadline| {
                        let unset = deadline.is_none();
                        deadline.get_or_insert(Instant::now() + grace);
                        unset
                    });
                    if ending.is_none() {
                        ending = Some(Box::pin(end(process, &target, deadlines.clone())));
                    }
                }
            }
        }
    }

    async fn start(&self, launch: &Launch) -> std::io::Result<Process> {
        let path = self.node.log(&self.pod, &self.spec.name);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let log = OpenOptions::new().create(true).append(true).open(path)?;
        let errors = log.try_clone()?;
        self.node
            .processes
            .start(&launch.program, |command| {
                command.args(&launch.arguments).env_clear().envs(&launch.environment);
                command.current_dir(&launch.directory).stdin(Stdio::null()).stdout(log).stderr(errors);
            })
            .await
    }

    fn ready_without_probe(&self) -> bool {
        self.spec.readiness_probe.is_none() && self.spec.startup_probe.is_none()
    }

    /// Whether its restart policy wants it started again.
    fn again(&self, succeeded: bool) -> bool {
        let policy = self.pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
        match policy.unwrap_or("Always") {
            "Never" => false,
            "Always" if !self.init => true,
            _ => !succeeded,
        }
    }

    fn terminated(
        &mut self,
        ended: Ended,
        reason: &str,
        message: Option<String>,
        began: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time,
    ) {
        if self.status.state.as_ref().is_some_and(|state| state.terminated.is_some()) {
            self.status.last_state = self.status.state.take();
        }
        self.status.ready = self.init && ended.code == 0;
        self.status.started = Some(false);
        self.status.state = Some(ContainerState {
            terminated: Some(ContainerStateTerminated {
                container_id: self.status.container_id.clone(),
                exit_code: ended.code,
                finished_at: Some(now()),
                message,
                reason: Some(reason.to_owned()),
                signal: ended.signal,
                started_at: Some(began),
            }),
            ..Default::default()
        });
        self.report();
    }

    fn wait_as(&mut self, reason: &str, message: Option<String>) {
        self.status.ready = false;
        self.status.state = Some(ContainerState {
            waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message }),
            ..Default::default()
        });
        self.report();
    }

    fn report(&self) {
        // Without a pod there is nothing to report to.
        let _ = self.reports.send(self.status.clone());
    }

    fn stopping(&self) -> bool {
        self.stop.borrow().is_some()
    }

    /// Whether the time passed without the pod being deleted.
    async fn rest(&mut self, time: Duration) -> bool {
        if time.is_zero() {
            return !self.stopping();
        }
        tokio::select! {
            () = rest(time) => true,
            () = stopped(&mut self.stop) => false,
        }
    }
}

async fn poll(future: &mut Probing<'_>) {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}
