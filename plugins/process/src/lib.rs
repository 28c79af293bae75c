//! Resource-scaler of kind `process`: local processes, one replica each, on one host.
//!
//! A process belongs to its *keeper*, a small program that starts it, reaps it and ends it ([`run`](mod@run)); what is to be
//! running is in rows that all daemons of the host share ([`scaler_types::rows`]). Who has a resource's turn starts:
//!
//! 1. the keeper, which locks its run and then waits for a word;
//! 2. the run is written down in the row: from here on it is listed;
//! 3. the word: the keeper starts the command.
//!
//! A daemon that dies before 3 closes the keeper's input, and nothing starts; a run that is written down and has no keeper
//! counts as ended.

mod config;
mod port;
mod ready;
mod run;
mod watch;
mod wire;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use scaler_types::{
    AddressOf, Changes, Endpoint, PluginContext, Probe, Resource, ResourceId, ResourceScaler, Result, Row,
    ScaleError, ScaleRequest, State, Target, Version,
    rows::{Rows, Turn},
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
    rows: Rows<Run>,
    keeper: PathBuf,
    starts: Semaphore,
    watches: Watches,
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

    async fn new(context: PluginContext) -> Result<Self> {
        let keeper = context.plugin_dir.join("process-keeper");
        anyhow::ensure!(
            keeper.is_file(),
            "{} is missing: the process plugin needs its keeper beside it",
            keeper.display()
        );
        let processes = config::read(&context)?
            .into_iter()
            .map(|spec| {
                let id = ResourceId::new(&context.namespace, &spec.name);
                let folder = Folder::new(&context.state_dir, &id.namespace, &id.name)?;
                Ok((spec.name.clone(), Arc::new(Process { id, spec, folder })))
            })
            .collect::<Result<BTreeMap<_, _>>>()?;
        let rows = Rows::open(&context)?;
        tracing::info!(
            namespace = context.namespace,
            processes = processes.len(),
            state_dir = %context.state_dir.display(),
            "processes of this host only: every daemon has to run here and share the state folder"
        );
        Ok(Self {
            processes,
            rows,
            keeper: std::path::absolute(keeper)?,
            starts: Semaphore::new(STARTS_AT_ONCE),
            watches: Watches::default(),
        })
    }

    async fn get_resources(&self) -> Result<Vec<Resource>> {
        Ok(self.processes.values().map(|process| self.resource(process)).collect())
    }

    async fn set_scale(&self, request: &ScaleRequest) -> Result<(), ScaleError> {
        let process = self.find(&request.id)?;
        let mut turn = self.rows.begin(request).await?;
        finish_leaving(process, &mut turn).await?;
        if matches!(request.target, Target::Zero | Target::Exactly(0)) {
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
                process.ended(&self.rows, &run).await;
                Err(how)
            }
        }
    }

    async fn resolve_service_name(&self, resource: &ResourceId) -> Result<String> {
        Ok(format!("127.0.0.1:{}", self.find(resource)?.spec.port))
    }

    async fn changes(&self, cursor: u64) -> Result<Changes> {
        let changed = self.rows.changed(cursor).await;
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
        row: &Row,
    ) -> Result<Version, ScaleError> {
        self.find(resource)?;
        self.rows.compare_and_set(resource, expected, row).await
    }

    async fn stop(&self) {
        self.watches.end();
        self.rows.close();
    }
}

impl ProcessScaler {
    fn find(&self, id: &ResourceId) -> Result<&Arc<Process>, ScaleError> {
        let found = self.processes.get(&id.name).filter(|process| process.id == *id);
        found.ok_or_else(|| ScaleError::Terminal {
            reason: format!("{id} is no process of this namespace file (plugins.process.resources)"),
        })
    }

    /// A process as it is now. One that cannot be told is listed as one to be left alone, and fails alone.
    fn resource(&self, process: &Arc<Process>) -> Resource {
        let mut resource = Resource::new(process.id.clone());
        resource.hosts.clone_from(&process.spec.hosts);
        resource.ports = process.spec.ports();
        resource.scale_resources = process.spec.metrics();
        if let Err(error) = self.look(process, &mut resource) {
            let reason = format!("{error:#}");
            tracing::error!(resource = %process.id, error = reason, "cannot tell how it is; nothing is done with it");
            // No format a daemon knows.
            resource.row = Row { format: u32::MAX, reason: reason.clone(), ..Row::default() };
            resource.status = reason;
        }
        resource
    }

    /// What is stored of a process and what is true of it. Sees to what it finds undone.
    fn look(&self, process: &Arc<Process>, resource: &mut Resource) -> Result<()> {
        let stored = self.rows.read(&process.id)?;
        resource.row = stored.row;
        resource.version = stored.version;
        if let Some(run) = &stored.up {
            if process.folder.alive(run)? {
                resource.replicas = 1;
                resource.endpoints = vec![run.endpoint()];
            }
            // If it has ended, the watch ends at once, and takes it out of the row.
            self.watches.watch(process, run, &self.rows);
        }
        if let Some(run) = &stored.leaving {
            resource.status = "is being stopped".to_owned();
            self.watches.finish(process, run, &self.rows);
        } else if resource.replicas == 0
            && resource.row.state != State::Asleep
            && let Some(ended) = process.folder.ended().filter(|ended| !ended.asked)
        {
            resource.status = ended.how;
        }
        Ok(())
    }

    async fn start(&self, process: &Arc<Process>, turn: &mut Turn<Run>) -> Result<Run, ScaleError> {
        if let Some(run) = turn.up() {
            // It ended, and maybe not all of it.
            process.folder.clean(run).await?;
        }
        process.spec.can_start().map_err(|error| ScaleError::Terminal { reason: format!("{error:#}") })?;
        let permit = self.starts.acquire().await.context("starting a keeper")?;
        let (keeper, owned) = (self.keeper.clone(), Arc::clone(process));
        let waiting = tokio::task::spawn_blocking(move || owned.folder.prepare(&keeper, &owned.spec))
            .await
            .context("starting a keeper")??;
        drop(permit);
        turn.started(waiting.run.clone()).await?;
        // No await between this and the line above: a call that is cancelled leaves no run without its process.
        let run = waiting.go()?;
        tracing::info!(resource = %process.id, run = run.id, keeper = run.keeper, "started");
        Ok(run)
    }
}

// === impl Process ===

impl Process {
    /// Takes a run that has ended by itself out of the row.
    async fn ended(&self, rows: &Rows<Run>, run: &Run) {
        let result = async {
            self.folder.clean(run).await?;
            rows.ended(&self.id, run).await
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
