//! Following the resources of a plugin.

use std::{sync::Arc, time::Duration};

use scaler_types::{Changes, backoff::Backoff};
use tokio::time::{Instant, sleep_until};

use crate::{CallError, Listed, RunningPlugin};

/// After a plugin that could not say what changed.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));

/// The resources of a plugin as a stream: all of them first, then what changes. After a failure all of them again, since what
/// was missed meanwhile is not known.
#[derive(Debug)]
pub struct ChangeStream {
    plugin: Arc<dyn RunningPlugin>,
    /// Where the last answer ended; 0 has everything listed.
    cursor: u64,
    backoff: Backoff,
    /// The end of the pause after a failure.
    paused_until: Option<Instant>,
    /// The failure that was logged last, if it lasts.
    logged: Option<CallError>,
}

// === impl ChangeStream ===

impl ChangeStream {
    /// The stream of `plugin`, from its beginning.
    pub fn new(plugin: Arc<dyn RunningPlugin>) -> Self {
        Self { plugin, cursor: 0, backoff: BACKOFF, paused_until: None, logged: None }
    }

    /// Whether the next answer lists all resources as they are after the question.
    pub fn lists_all(&self) -> bool {
        self.cursor == 0
    }

    /// Has the next answer list all resources.
    pub fn relist(&mut self) {
        self.cursor = 0;
    }

    /// Waits for the end of the pause after a failure.
    #[expect(
        clippy::disallowed_methods,
        reason = "a plugin that failed is asked again after a growing pause"
    )]
    pub async fn pause(&mut self) {
        if let Some(until) = self.paused_until {
            sleep_until(until).await;
            self.paused_until = None;
        }
    }

    /// Waits for the [pause](Self::pause), then for what changed. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    ///
    /// The plugin could not say. Logged, once as long as it stays the same.
    pub async fn next(&mut self) -> Result<Listed<Changes>, CallError> {
        self.pause().await;
        match self.plugin.changes(self.cursor).await {
            Ok(changes) => {
                (self.cursor, self.backoff, self.logged) = (changes.readable.cursor, BACKOFF, None);
                Ok(changes)
            }
            Err(error) => {
                if self.logged.as_ref() != Some(&error) {
                    let (kind, namespace) = (self.plugin.kind(), self.plugin.namespace());
                    tracing::warn!(kind, namespace, %error, "failed to list the plugin's resources; keeping the last known ones");
                    self.logged = Some(error.clone());
                }
                self.cursor = 0;
                self.paused_until = Some(Instant::now() + self.backoff.next_pause());
                Err(error)
            }
        }
    }
}
