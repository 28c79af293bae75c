//! The tutorial's resource-scaler, kind `command`: scales whatever two shell commands can start and stop.
//! `docs/write-a-plugin.md` explains it.

use std::{collections::BTreeMap, process::Stdio};

use anyhow::Context as _;
use scaler_types::{records::Records, *};
use serde::Deserialize;

/// The plugin's section of a namespace file.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    resources: Vec<Command>,
}

/// One resource, as a user configures it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Command {
    name: String,
    /// Run by `sh -c`: starts the resource and ends. It may run already.
    start: String,
    /// Run by `sh -c`: stops the resource, and ends when it is gone. It may be gone already.
    stop: String,
    /// Where it listens, `host:port`.
    address: String,
    #[serde(default)]
    hosts: Vec<String>,
}

struct CommandScaler {
    commands: BTreeMap<ResourceId, Command>,
    /// What both daemons share of each resource: its record and, while it is up, which wake started it.
    records: Records<Nonce>,
}

impl ResourceScaler for CommandScaler {
    const KIND: &'static str = "command";

    async fn new(context: PluginContext) -> Result<Self> {
        let section: Section = context.section()?.unwrap_or_default();
        let id = |command: &Command| ResourceId::new(&context.namespace, &command.name);
        let commands = section.resources.into_iter().map(|command| (id(&command), command)).collect();
        Ok(Self { commands, records: Records::open(&context)? })
    }

    async fn get_resources(&self) -> Result<Vec<Resource>> {
        let describe = |(id, command): (&ResourceId, &Command)| {
            let stored = self.records.read(id)?;
            let mut resource = Resource::new(id.clone());
            resource.hosts = command.hosts.clone();
            resource.replicas = stored.up.is_some().into();
            resource
                .endpoints
                .extend(stored.up.map(|wake| Endpoint::new(&command.address, wake.to_string())));
            (resource.record, resource.version) = (stored.record, stored.version);
            Ok(resource)
        };
        self.commands.iter().map(describe).collect()
    }

    async fn set_scale(&self, request: &ScaleRequest) -> Result<(), ScaleError> {
        let command = self.command(&request.id)?;
        let mut turn = self.records.begin(request).await?;
        if turn.leaving().is_some() {
            shell(&command.stop).await?;
            turn.stopped().await?;
        }
        if request.target != Target::Zero && turn.up().is_none() {
            shell(&command.start).await?;
            if let Err(overtaken) = turn.started(request.record.nonce).await {
                shell(&command.stop).await?;
                return Err(overtaken);
            }
        }
        Ok(())
    }

    async fn resolve_service_name(&self, id: &ResourceId) -> Result<String> {
        Ok(self.command(id)?.address.clone())
    }

    async fn changes(&self, cursor: u64) -> Result<Changes> {
        let cursor = self.records.changed(cursor).await.cursor;
        Ok(Changes { cursor, complete: true, resources: self.get_resources().await?, ..Changes::default() })
    }

    async fn compare_and_set(
        &self,
        id: &ResourceId,
        expected: &Version,
        record: &Record,
    ) -> Result<Version, ScaleError> {
        self.records.compare_and_set(id, expected, record).await
    }
}

impl CommandScaler {
    fn command(&self, id: &ResourceId) -> Result<&Command> {
        self.commands.get(id).with_context(|| format!("{id} is not configured"))
    }
}

/// Runs a command to its end, in a process group of its own: Ctrl-C in the daemon's terminal is not meant for it.
async fn shell(script: &str) -> Result<(), ScaleError> {
    let mut sh = tokio::process::Command::new("sh");
    sh.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::null()).process_group(0).kill_on_drop(true);
    match sh.status().await? {
        ended if ended.success() => Ok(()),
        ended => Err(ScaleError::Terminal { reason: format!("{script:?} ended with {ended}") }),
    }
}

export_resource_scaler!(CommandScaler);
