//! Resource-scaler of kind `process`: local processes, one replica each, on one host.
//!
//! A process belongs to its *shim*, a small program that starts it, reaps it and ends it ([`run`](mod@run)); what is to be
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
mod run;
mod watch;
mod wire;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use scaler_types::{
    AddressOf, Changes, Endpoint, Phase, PluginContext, Probe, Record, Resource, ResourceId, ResourceScaler,
    ResourceScalerConfig, Result, Role, ScaleError, ScaleRequest, Target, Version,
    records::{Records, Turn},
};

use tokio::sync::Semaphore;

use config::Spec;
use run::{Folder, Run};
use watch::Watches;

/// Keepers that are being started at the same time: each takes a thread until it has its lock, some milliseconds.
const STARTS_AT_ONCE: usize = 16;

/// The plugin.
pub struct ProcessScaler {
    processes: BTreeMap<String, Arc<Process>>,
    records: Records<Run>,
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
        let mut turn = self.records.begin(request).await?;
        finish_leaving(process, &mut turn).await?;
        if request.target == Target::Zero {
            return Ok(());
        }
        let run = match turn.up() {
            Some(run) if process.folder.alive(run)? => run.clone(),
            _ => self.start(process, &mut turn).await?,
        };
        // A sleep need not wait until it is ready.
        drop(turn);
        tokio::select! {
            () = ready::wait(&run) => Ok(()),
            gone = process.folder.gone(&run) => {
                gone?;
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
        Ok(format!("127.0.0.1:{}", self.find(resource)?.spec.port))
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
        if let Some(run) = &stored.up {
            if process.folder.alive(run)? {
                resource.replicas = 1;
                resource.endpoints = vec![run.endpoint()];
            }
            // If it has ended, the watch ends at once, and takes it out of the record.
            self.watches.watch(process, run, &self.records);
        }
        if let Some(run) = &stored.leaving {
            resource.status = "is being stopped".to_owned();
            self.watches.finish(process, run, &self.records);
        } else if resource.replicas == 0
            && resource.record.phase != Phase::Asleep
            && let Some(ended) = process.folder.ended().filter(|exit| !exit.stop_requested)
        {
            resource.status = ended.reason;
        }
        Ok(())
    }

    async fn start(&self, process: &Arc<Process>, turn: &mut Turn<Run>) -> Result<Run, ScaleError> {
        if let Some(run) = turn.up() {
            // It ended, and maybe not all of it.
            process.folder.clean(run).await?;
        }
        process.spec.can_start().map_err(|error| ScaleError::Terminal { reason: format!("{error:#}") })?;
        let permit = self.starts.acquire().await.context("starting a shim")?;
        let (shim, owned) = (self.shim.clone(), Arc::clone(process));
        let waiting = tokio::task::spawn_blocking(move || owned.folder.prepare(&shim, &owned.spec))
            .await
            .context("starting a shim")??;
        drop(permit);
        turn.started(waiting.run.clone()).await?;
        // No await between this and the line above: a call that is cancelled leaves no run without its process.
        let run = waiting.go()?;
        tracing::info!(resource = %process.id, run = run.id, shim = run.shim_pid, "started");
        Ok(run)
    }
}

// === impl Process ===

impl Process {
    /// Takes a run that has ended by itself out of the record.
    async fn ended(&self, records: &Records<Run>, run: &Run) {
        let result = async {
            self.folder.clean(run).await?;
            records.ended(&self.id, run).await
        };
        match result.await {
            Ok(true) => tracing::warn!(
                resource = %self.id,
                run = run.id,
                how = %self.folder.obituary(run),
                "ended by itself"
            ),
            Ok(false) => {}
            Err(error) => tracing::error!(resource = %self.id, %error, "cannot write down that it ended"),
        }
    }
}

/// Stops what a scale to zero took down, this one or one that did not get to its end.
async fn finish_leaving(process: &Process, turn: &mut Turn<Run>) -> Result<(), ScaleError> {
    if let Some(run) = turn.leaving().cloned() {
        process.folder.stop(&run, process.spec.stop_grace_period).await?;
        turn.stopped().await?;
        tracing::info!(resource = %process.id, run = run.id, "stopped");
    }
    Ok(())
}

// === impl Run ===

impl Run {
    fn endpoint(&self) -> Endpoint {
        let probe =
            self.ready_path.clone().map_or(Probe::Tcp, |path| Probe::Http { path, headers: Vec::new() });
        let address_of = AddressOf::Instance;
        Endpoint { probe, address_of, ..Endpoint::new(format!("127.0.0.1:{}", self.port), &self.id) }
    }
}
