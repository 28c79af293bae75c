//! Resource-scaler of kind `process`: local processes on one host, one replica each, or several of those without a port.
//!
//! Each replica belongs to its *shim*, a small program that starts it, reaps it and ends it ([`run`](mod@run)); what is to be
//! running is in records that all daemons of the host share ([`scaler_types::records`]). The turn's holder starts:
//!
//! 1. the shim, which locks its run and then waits for a word;
//! 2. the run is written down in the record: from here on it is listed;
//! 3. the word: the shim starts the command.
//!
//! A daemon that dies before 3 closes the shim's input, and nothing starts; a run that is written down and has no shim
//! counts as ended.

mod config;
mod mistakes;
mod port;
mod ready;
mod replicas;
mod run;
mod watch;
mod wire;

use std::{collections::BTreeMap, future, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use scaler_types::{
    AddressOf, Changes, Endpoint, Phase, PluginContext, Probe, Record, Resource, ResourceId, ResourceScaler,
    ResourceScalerConfig, Result, Role, ScaleError, ScaleRequest, Target, Version, duration,
    records::{Records, Turn},
};

use tokio::{sync::Semaphore, task::JoinSet, time::timeout};

use config::Spec;
use replicas::Replicas;
use run::{Folder, PreparedRun, Run};
use watch::Watches;

/// Keepers that are being started at the same time: each takes a thread until it has its lock, some milliseconds.
const STARTS_AT_ONCE: usize = 16;

/// A process without a port that ends within this has not started: what it said is the reason.
const STARTUP_PERIOD: Duration = Duration::from_millis(300);

/// The plugin.
pub struct ProcessScaler {
    processes: BTreeMap<String, Arc<Process>>,
    records: Records<Replicas>,
    shim: PathBuf,
    starts: Semaphore,
    watches: Watches,
    role: Role,
    namespace_file: String,
}

/// One configured process.
struct Process {
    id: ResourceId,
    spec: Spec,
    folder: Folder,
}

scaler_types::export_resource_scaler!(ProcessScaler);

// === impl ProcessScaler ===

impl ResourceScaler for ProcessScaler {
    const KIND: &'static str = "process";

    fn is_configured(context: &PluginContext) -> bool {
        context.has_section()
    }

    async fn new(context: PluginContext) -> Result<Self> {
        let shim = context.plugin_dir.join("process-shim");
        anyhow::ensure!(
            shim.is_file(),
            "{} is missing: the process plugin needs its shim beside it",
            shim.display()
        );
        let processes = config::read(&context)?
            .into_iter()
            .map(|spec| {
                let id = ResourceId::new(&context.namespace, &spec.name);
                let folder = Folder::new(&context.state_dir, &id.namespace, &id.name)?;
                Ok((spec.name.clone(), Arc::new(Process { id, spec, folder })))
            })
            .collect::<Result<BTreeMap<_, _>>>()?;
        let records = Records::open(&context)?;
        tracing::info!(
            namespace = context.namespace,
            processes = processes.len(),
            state_dir = %context.state_dir.display(),
            "processes of this host only: every daemon has to run here and share the state folder"
        );
        Ok(Self {
            processes,
            records,
            shim: std::path::absolute(shim)?,
            starts: Semaphore::new(STARTS_AT_ONCE),
            watches: Watches::default(),
            role: context.role,
            namespace_file: context.namespace_file,
        })
    }

    async fn get_resources(&self) -> Result<Vec<Resource>> {
        Ok(self.processes.values().map(|process| self.resource(process)).collect())
    }

    async fn set_scale(&self, request: &ScaleRequest) -> Result<(), ScaleError> {
        let process = self.find(&request.id)?;
        if request.target == Target::Zero {
            self.ensure_idle(process).await?;
        }
        let mut turn = self.records.begin(request).await?;
        finish_leaving(process, &mut turn).await?;
        process.folder.obey(&process.spec.wake_now)?;
        if request.target == Target::Zero {
            return Ok(());
        }
        let runs = self.scale_to(process, &mut turn, request.target).await?;
        // A sleep need not wait until they are ready.
        drop(turn);
        let ready = async {
            match runs.first().map(|run| (run, run.port)) {
                Some((run, Some(port))) => ready::wait(run, port).await,
                // Time is the event here: it still runs.
                _ => drop(timeout(STARTUP_PERIOD, future::pending::<()>()).await),
            }
        };
        tokio::select! {
            () = ready => Ok(()),
            gone = process.first_gone(&runs) => {
                let run = gone?;
                let how = process.folder.obituary(&run);
                process.ended(&self.records, &run).await;
                Err(how)
            }
        }
    }

    async fn get_config(&self) -> Result<Option<ResourceScalerConfig>> {
        // One of the two daemons is enough.
        let warns = self.role == Role::Autoscaler;
        let specs = self.processes.values().filter(|_| warns).map(|process| &process.spec);
        let warnings = mistakes::find(&self.namespace_file, specs);
        Ok(Some(ResourceScalerConfig { warnings, ..ResourceScalerConfig::default() }))
    }

    async fn resolve_service_name(&self, resource: &ResourceId) -> Result<String> {
        let port = self.find(resource)?.spec.port;
        let port = port.with_context(|| format!("{resource} has no port, and takes no requests"))?;
        Ok(format!("127.0.0.1:{port}"))
    }

    async fn changes(&self, cursor: u64) -> Result<Changes> {
        let changed = self.records.changed(cursor).await;
        let names = changed.names.filter(|_| cursor > 0);
        let resources = match &names {
            Some(names) => names
                .iter()
                .filter_map(|name| self.processes.get(name))
                .map(|process| self.resource(process))
                .collect(),
            None => self.get_resources().await?,
        };
        Ok(Changes { cursor: changed.cursor, complete: names.is_none(), resources, removed: Vec::new() })
    }

    async fn compare_and_set(
        &self,
        resource: &ResourceId,
        expected: &Version,
        record: &Record,
    ) -> Result<Version, ScaleError> {
        self.find(resource)?;
        self.records.compare_and_set(resource, expected, record).await
    }

    async fn stop(&self) {
        self.watches.end();
        self.records.close();
    }
}

impl ProcessScaler {
    fn find(&self, id: &ResourceId) -> Result<&Arc<Process>, ScaleError> {
        let found = self.processes.get(&id.name).filter(|process| process.id == *id);
        found.ok_or_else(|| ScaleError::Terminal {
            reason: format!("{id} is no process of this namespace file (plugins.process.resources)"),
        })
    }

    /// A process as it is now. One whose state cannot be read is listed with an unknown format, and fails alone.
    fn resource(&self, process: &Arc<Process>) -> Resource {
        let mut resource = Resource::new(process.id.clone());
        resource.hosts.clone_from(&process.spec.hosts);
        resource.ports = process.spec.ports();
        resource.scale_resources = process.spec.metrics();
        resource.scaling = process.spec.scaling();
        if let Err(error) = self.look(process, &mut resource) {
            let reason = format!("{error:#}");
            tracing::error!(resource = %process.id, error = reason, "failed to read the process's state; it is not scaled until that works");
            // No format a daemon knows.
            resource.record = Record { format: u32::MAX, reason: reason.clone(), ..Record::default() };
            resource.status = reason;
        }
        resource
    }

    /// A process's stored and actual state. Finishes any step that it finds unfinished.
    fn look(&self, process: &Arc<Process>, resource: &mut Resource) -> Result<()> {
        let stored = self.records.read(&process.id)?;
        resource.record = stored.record;
        resource.version = stored.version;
        if let Some(up) = &stored.up {
            for run in &up.runs {
                if process.folder.alive(run)? {
                    resource.replicas += 1;
                    resource.endpoints.extend(run.endpoint());
                }
                // If it has ended, the watch ends at once, and takes it out of the record.
                self.watches.watch(process, run, &self.records);
            }
            for run in &up.stopping {
                self.watches.stop(process, run, &self.records);
            }
            if let Some(scaling) = &mut resource.scaling {
                scaling.last_scaled = up.last_scaled;
            }
        }
        if let Some(leaving) = &stored.leaving {
            resource.status = "is being stopped".to_owned();
            self.watches.finish(process, leaving, &self.records);
        } else if resource.record.phase != Phase::Asleep
            && let Some(how) = process.last_end(stored.up.as_ref(), resource.replicas)
        {
            resource.status = how;
        }
        let wish = &process.spec.wake_now;
        if resource.replicas == 0 && !wish.is_empty() && process.folder.obeyed_wish().as_ref() != Some(wish) {
            resource.wake_now = format!("wakeNow: {wish}");
        }
        Ok(())
    }

    /// Fails while a process is busy, or does not say whether it is.
    async fn ensure_idle(&self, process: &Process) -> Result<(), ScaleError> {
        let Some(probe) = &process.spec.busy_probe else { return Ok(()) };
        for run in self.records.read(&process.id)?.up.iter().flat_map(|up| &up.runs) {
            if process.folder.alive(run)?
                && let Some(reason) = ready::busy(probe).await
            {
                return Err(ScaleError::Busy { after: Duration::from_secs(1), reason });
            }
        }
        Ok(())
    }

    /// Starts or stops the difference to what is up. Returns the runs that are to become ready: those that were started, and of a wake
    /// those that there were.
    async fn scale_to(
        &self,
        process: &Arc<Process>,
        turn: &mut Turn<Replicas>,
        target: Target,
    ) -> Result<Vec<Run>, ScaleError> {
        let known = turn.up().cloned().unwrap_or_default();
        let mut next = Replicas { runs: Vec::new(), ..known.clone() };
        for run in &known.runs {
            match process.folder.alive(run)? {
                true => next.runs.push(run.clone()),
                // It ended, and maybe not all of it.
                false => process.folder.clean(run).await?,
            }
        }
        let wanted = match target {
            Target::Zero => 0,
            Target::AtLeast(count) => (count.max(1) as usize).max(next.runs.len()),
            Target::Exactly(count) => count.get() as usize,
        };
        // Only one process can listen on a port.
        let wanted = process.spec.port.map_or(wanted, |_| wanted.min(1));
        let mut ready = if matches!(target, Target::AtLeast(_)) { next.runs.clone() } else { Vec::new() };
        let stopped = next.shrink(wanted);
        let prepared = self.prepare(process, &mut next, wanted).await?;
        if next == known {
            return Ok(ready);
        }
        if process.spec.scaling().is_some() && next.runs.len() != known.runs.len() {
            next.stamp();
        }
        turn.started(next).await?;
        // No await between this and the line above: a call that is cancelled leaves no run without its process.
        for prepared in prepared {
            let run = prepared.go()?;
            tracing::info!(resource = %process.id, run = run.id, replica = run.replica, shim = run.shim_pid, "started");
            ready.push(run);
        }
        for run in &stopped {
            self.watches.stop(process, run, &self.records);
        }
        Ok(ready)
    }

    /// Starts the shims of the replicas that are missing, and adds their runs.
    async fn prepare(
        &self,
        process: &Arc<Process>,
        next: &mut Replicas,
        wanted: usize,
    ) -> Result<Vec<PreparedRun>, ScaleError> {
        if next.runs.len() < wanted {
            process
                .spec
                .can_start()
                .map_err(|error| ScaleError::Terminal { reason: format!("{error:#}") })?;
        }
        let mut prepared = Vec::new();
        while next.runs.len() < wanted {
            let permit = self.starts.acquire().await.context("starting a shim")?;
            let (shim, owned, replica) = (self.shim.clone(), Arc::clone(process), next.free_number());
            let waiting =
                tokio::task::spawn_blocking(move || owned.folder.prepare(&shim, &owned.spec, replica))
                    .await
                    .context("starting a shim")??;
            drop(permit);
            next.runs.push(waiting.run.clone());
            prepared.push(waiting);
        }
        Ok(prepared)
    }
}

// === impl Process ===

impl Process {
    /// Takes a run that has ended by itself out of the record.
    async fn ended(&self, records: &Records<Replicas>, run: &Run) {
        let result = async {
            self.folder.clean(run).await?;
            self.forget(records, run).await
        };
        match result.await {
            Ok(true) => match self.folder.obituary(run) {
                // Another daemon stopped it, for a step down that this one has not seen yet.
                ScaleError::Conflict => {
                    self.log_stopped(run);
                }
                how => tracing::warn!(resource = %self.id, run = run.id, %how, "ended by itself"),
            },
            Ok(false) => {}
            Err(error) => tracing::error!(resource = %self.id, %error, "cannot write down that it ended"),
        }
    }

    /// Logs that a run ended because it was to.
    fn log_stopped(&self, run: &Run) {
        let (resource, replica) = (&self.id, run.replica);
        if self.folder.ended(replica).is_some_and(|ended| ended.run == run.id && ended.killed) {
            let grace_period = duration::short(self.spec.stop_grace_period);
            tracing::warn!(%resource, run = run.id, replica, stop_grace_period = grace_period, "killed after its stopGracePeriod: raise that, or let the process end at SIGTERM");
        } else {
            tracing::info!(%resource, run = run.id, replica, "stopped");
        }
    }

    /// How the replica that is started next ended, if nothing asked it to. `running`: so many others run.
    fn last_end(&self, up: Option<&Replicas>, running: u32) -> Option<String> {
        let others = up.filter(|_| running > 0);
        let number = others.map_or(0, Replicas::free_number);
        let ended = self.folder.ended(number).filter(|exit| !exit.stop_requested)?;
        Some(if others.is_some() { format!("a replica {}", ended.reason) } else { ended.reason })
    }

    /// Takes a run that has ended out of the record. Says whether it was there.
    async fn forget(&self, records: &Records<Replicas>, run: &Run) -> Result<bool, ScaleError> {
        loop {
            let Some(up) = records.read(&self.id)?.up else { return Ok(false) };
            if up.all().all(|one| one.id != run.id) {
                return Ok(false);
            }
            if records.replace(&self.id, &up, up.without(run)).await? {
                return Ok(true);
            }
        }
    }

    /// Waits until one of the runs has ended, for ever if there is none.
    async fn first_gone(self: &Arc<Self>, runs: &[Run]) -> Result<Run> {
        let mut waits = JoinSet::new();
        for run in runs.iter().cloned() {
            let process = Arc::clone(self);
            waits.spawn(async move { process.folder.gone(&run).await.map(|()| run) });
        }
        match waits.join_next().await {
            Some(gone) => gone.context("waiting for a process")?,
            None => future::pending().await,
        }
    }
}

/// Stops what a scale to zero took down, this one or one that did not get to its end.
async fn finish_leaving(process: &Arc<Process>, turn: &mut Turn<Replicas>) -> Result<(), ScaleError> {
    let Some(leaving) = turn.leaving().cloned() else { return Ok(()) };
    let mut stops = JoinSet::new();
    for run in leaving.all() {
        let (process, run) = (Arc::clone(process), run.clone());
        stops.spawn(async move {
            process.folder.stop(&run, process.spec.stop_grace_period).await?;
            process.log_stopped(&run);
            anyhow::Ok(())
        });
    }
    while let Some(stopped) = stops.join_next().await {
        stopped.context("stopping a process")??;
    }
    turn.stopped().await
}

// === impl Run ===

impl Run {
    /// Where it takes requests, if it does.
    fn endpoint(&self) -> Option<Endpoint> {
        let probe =
            self.ready_path.clone().map_or(Probe::Tcp, |path| Probe::Http { path, headers: Vec::new() });
        let address_of = AddressOf::Instance;
        let address = format!("127.0.0.1:{}", self.port?);
        Some(Endpoint { probe, address_of, ..Endpoint::new(address, &self.id) })
    }
}
