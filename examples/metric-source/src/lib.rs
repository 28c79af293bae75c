//! The tutorial's metric source, kind `shell`: reads queues by commands of the operator's.
//! `docs/write-a-metric-source.md` explains it.

use std::{collections::BTreeMap, fmt::Display, process::Stdio, time::Duration};

use scaler_types::*;
use serde::Deserialize;

/// The source, for one namespace file: its section of the file.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ShellSource {
    /// By the queue's name, what `sh -c` runs to print its length: WAITING, or WAITING IN_FLIGHT.
    queues: BTreeMap<String, String>,
}

/// How long a command may take.
const TIMEOUT: Duration = Duration::from_secs(5);

impl MetricSource for ShellSource {
    const KIND: &'static str = "shell";
    const SCHEMES: &'static [&'static str] = &["shell"];

    async fn new(context: MetricSourceContext) -> Result<Self> {
        Ok(context.section()?.unwrap_or_default())
    }

    async fn read(&self, queues: &[String]) -> Result<Vec<Result<QueueReading, QueueError>>> {
        let tasks: Vec<_> =
            queues.iter().map(|queue| tokio::spawn(read_queue(self.command(queue)))).collect();
        let mut readings = Vec::new();
        for task in tasks {
            readings.push(task.await?);
        }
        Ok(readings)
    }
}

impl ShellSource {
    /// The command that reads the queue of this URI.
    fn command(&self, uri: &str) -> Result<String, QueueError> {
        let name = uri.strip_prefix("shell://");
        let name = name.ok_or_else(|| QueueError::Invalid("expected shell://QUEUE".to_owned()))?;
        self.queues.get(name).cloned().ok_or_else(|| {
            QueueError::Denied(format!("add a command for {name:?} to metricSources.shell.queues"))
        })
    }
}

/// Runs the command to its end. It is killed when its time is over.
async fn read_queue(command: Result<String, QueueError>) -> Result<QueueReading, QueueError> {
    let command = command?;
    let unavailable = |why: &dyn Display| QueueError::Unavailable(format!("{command:?}: {why}"));
    let mut sh = tokio::process::Command::new("sh");
    sh.args(["-c", &command]).stdin(Stdio::null()).process_group(0).kill_on_drop(true);
    let ended = tokio::time::timeout(TIMEOUT, sh.output()).await;
    let output = ended.map_err(|late| unavailable(&late))?.map_err(|error| unavailable(&error))?;
    if !output.status.success() {
        return Err(unavailable(&output.status));
    }
    let printed = String::from_utf8_lossy(&output.stdout);
    let numbers: Result<Vec<u64>, _> = printed.split_whitespace().map(str::parse).collect();
    let (waiting, in_flight) = match numbers.as_deref() {
        Ok([waiting]) => (*waiting, None),
        Ok([waiting, in_flight]) => (*waiting, Some(*in_flight)),
        _ => return Err(unavailable(&format!("printed {printed:?}, expected WAITING [IN_FLIGHT]"))),
    };
    Ok(QueueReading { waiting: Some(waiting), in_flight, delayed: Some(0), ..QueueReading::default() })
}

export_metric_source!(ShellSource);
