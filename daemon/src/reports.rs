//! Publishes events of resources, in the background: no caller waits for it.

use std::{fmt::Display, future::Future, sync::Arc, time::Duration};

use plugin_host::RunningPlugin;
use prometheus_client::{metrics::counter::Counter, registry::Registry};
use scaler_types::{EventReason, ResourceEvent, ResourceId};
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time::timeout,
};

use crate::telemetry::REPORTS_DROPPED;

/// How many events of one plugin may wait. Further ones are dropped; what happened is logged all the same.
const WAITING: usize = 256;
/// How long a plugin may take to publish one.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);

/// Publishes events by one plugin, one after the other, in a task of its own that ends when this is dropped.
///
/// One per running plugin: a slow plugin does not delay the events of others.
#[derive(Debug)]
pub struct Reporter {
    waiting: mpsc::Sender<(ResourceId, ResourceEvent)>,
    dropped: Dropped,
}

/// Counts events that were dropped, of all plugins.
#[derive(Clone, Debug, Default)]
pub struct Dropped(Counter);

// === impl Reporter ===

impl Reporter {
    /// Publishes events by `instance`. To be called on a tokio runtime.
    pub fn to(instance: Arc<dyn RunningPlugin>, dropped: Dropped) -> Self {
        Self::start(dropped, move |id, report| {
            let instance = instance.clone();
            async move { instance.publish_event(&id, &report).await }
        })
    }

    /// Publishes events by `publish`. To be called on a tokio runtime.
    pub fn start<S, F, E>(dropped: Dropped, publish: S) -> Self
    where
        S: Fn(ResourceId, ResourceEvent) -> F + Send + 'static,
        F: Future<Output = Result<(), E>> + Send,
        E: Display + Send,
    {
        let (waiting, mut reports) = mpsc::channel::<(ResourceId, ResourceEvent)>(WAITING);
        tokio::spawn(async move {
            while let Some((id, report)) = reports.recv().await {
                let (resource, reason) = (id.to_string(), report.reason.clone());
                match timeout(PUBLISH_TIMEOUT, publish(id, report)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        tracing::debug!(resource, reason, %error, "failed to publish an event of a resource");
                    }
                    Err(_) => {
                        tracing::debug!(resource, reason, "timed out publishing an event of a resource")
                    }
                }
            }
        });
        Self { waiting, dropped }
    }

    /// Has the plugin publish an event of the resource, with a sentence. Returns at once, whatever comes of it.
    pub fn report(&self, id: &ResourceId, reason: EventReason, message: impl Into<String>) {
        // Closed only while the runtime ends.
        let event = (id.clone(), reason.event(message));
        if let Err(TrySendError::Full((id, report))) = self.waiting.try_send(event) {
            self.dropped.0.inc();
            tracing::debug!(resource = %id, reason = report.reason, "dropped an event of a resource: its plugin is slow to publish");
        }
    }
}

// === impl Dropped ===

impl Dropped {
    /// Adds `scaler_reports_dropped_total`; for a registry of [`crate::telemetry::registry`].
    pub fn register(&self, registry: &mut Registry) {
        REPORTS_DROPPED.register(registry, self.0.clone());
    }

    /// How many so far.
    pub fn count(&self) -> u64 {
        self.0.get()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use scaler_types::ResourceId;
    use tokio::sync::{Semaphore, mpsc};

    use super::{Dropped, Reporter, WAITING};
    use crate::events::{WAKE_FAILED, WOKEN};

    #[tokio::test]
    async fn a_plugin_that_is_slow_to_publish_holds_up_no_caller() {
        let may = Arc::new(Semaphore::new(0));
        let (shown, mut seen) = mpsc::unbounded_channel();
        let dropped = Dropped::default();
        let slow = may.clone();
        let reporter = Reporter::start(dropped.clone(), move |id, report| {
            let (shown, slow) = (shown.clone(), slow.clone());
            async move {
                slow.acquire().await.unwrap().forget();
                shown.send((id.name, report.message)).unwrap();
                Err("it says so".to_owned())
            }
        });
        let id = ResourceId::new("demo", "a");
        for number in 0..WAITING + 50 {
            reporter.report(&id, WOKEN, number.to_string());
        }
        assert_eq!(dropped.count(), 50);
        may.add_permits(WAITING);
        for number in 0..WAITING {
            assert_eq!(seen.recv().await, Some(("a".to_owned(), number.to_string())));
        }
        // Those that follow are shown: an error ended nothing.
        reporter.report(&id, WAKE_FAILED, "last");
        may.add_permits(1);
        assert_eq!(seen.recv().await, Some(("a".to_owned(), "last".to_owned())));
    }
}
