//! The workers of a queue. The queue is a folder, and the demo puts messages into it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    build::Built,
    scene::{FOLDER, Scene},
    steps::pause,
};

/// How often there are new messages: the workers finish the ones before, and are scaled to zero, meanwhile.
pub const FILL: Duration = Duration::from_secs(40);

/// How many there are then: enough for all workers.
pub const MESSAGES: u32 = 20;

/// How long a worker takes for one.
const MESSAGE: &str = "2s";

/// The queue, below the scene's folder.
const QUEUE: &str = "mails";

/// The queue.
pub struct Queue(PathBuf);

/// The workers, as YAML that follows the resources of the process plugin, and the right to read their queue.
pub fn section(built: &Built) -> String {
    let queue = Path::new(FOLDER).join(QUEUE);
    let queue = queue.display();
    let worker = built.program("worker");
    let command = serde_json::json!([worker, queue.to_string(), "--job", MESSAGE]);
    format!(
        "      - name: mailer
        command: {command}
        queue: file://{queue}
        messagesPerReplica: 4
        maxReplicas: 5
metricSources:
  queues:
    allowedHosts: [file://{queue}]
"
    )
}

// === impl Queue ===

impl Queue {
    /// An empty one.
    ///
    /// # Errors
    ///
    /// The folder cannot be made.
    pub fn create(scene: &Scene) -> Result<Self> {
        let folder = scene.folder().join(QUEUE);
        fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(Self(folder))
    }

    /// Puts messages into it now and then, for as long as it runs.
    ///
    /// # Errors
    ///
    /// A message cannot be written.
    pub async fn fill(&self) -> Result<()> {
        for first in (0..).step_by(MESSAGES as usize) {
            pause(FILL / 8).await;
            for number in first..first + MESSAGES {
                let message = self.0.join(format!("mail-{number}"));
                fs::write(&message, "").with_context(|| format!("writing {}", message.display()))?;
            }
            pause(FILL - FILL / 8).await;
        }
        Ok(())
    }
}
