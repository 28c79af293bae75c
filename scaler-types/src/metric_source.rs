//! The trait that the author of a metric source implements.

use std::{future::Future, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Result, context, duration};

/// Reads how much work waits in queues of some kinds of broker.
///
/// Only the autoscaler loads metric sources, from `plugins/metric-sources`. Write each method as a plain `async fn`: they run as
/// those of a [`ResourceScaler`](crate::ResourceScaler) do, on a runtime of the plugin's own.
pub trait MetricSource: Send + Sync + Sized + 'static {
    /// The source's name, and the key of its configuration under `metricSources` in a namespace file: `queues`.
    const KIND: &'static str;

    /// The URI schemes that it reads, in lower case: `["redis", "rediss"]`.
    const SCHEMES: &'static [&'static str];

    /// Starts an instance for one namespace file. Called again when the file changes.
    ///
    /// # Errors
    ///
    /// The configuration cannot be used: the daemon reports it and keeps the instance that it had.
    fn new(context: MetricSourceContext) -> impl Future<Output = Result<Self>> + Send;

    /// Reads these queues now, and answers for each, in their order. One that cannot be read is that one's error. Never takes a
    /// message from a queue, nor reserves one.
    ///
    /// # Errors
    ///
    /// None of them can be read.
    fn read(
        &self,
        queues: &[String],
    ) -> impl Future<Output = Result<Vec<Result<QueueReading, QueueError>>>> + Send;

    /// Waits until one of these queues, each of which was empty at its last reading, has a message, and returns those that have.
    /// May return early with none.
    ///
    /// The default reads them once a second. A call that waits longer than half a minute ends with none, and is made again.
    ///
    /// # Errors
    ///
    /// They cannot be watched now; the autoscaler reads them at each poll, and calls again with a growing pause.
    fn changes(&self, queues: &[String]) -> impl Future<Output = Result<Vec<String>>> + Send {
        async move {
            loop {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "the documented default for brokers that cannot tell"
                )]
                tokio::time::sleep(Duration::from_secs(1)).await;
                let readings = self.read(queues).await?;
                let waiting = |reading: &Result<QueueReading, QueueError>| {
                    matches!(reading, Ok(QueueReading { waiting: Some(1..), .. }))
                };
                let changed: Vec<_> = queues
                    .iter()
                    .zip(&readings)
                    .filter(|(_, reading)| waiting(reading))
                    .map(|(queue, _)| queue.clone())
                    .collect();
                if !changed.is_empty() {
                    return Ok(changed);
                }
            }
        }
    }

    /// The instance is no longer needed.
    fn stop(&self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// What an instance of a metric source starts with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MetricSourceContext {
    /// The namespace of the namespace file; `*` is all.
    pub namespace: String,
    /// The source's kind, the key of its configuration under `metricSources`.
    pub kind: String,
    /// The namespace file's path, for messages; empty without a file.
    #[serde(default)]
    pub namespace_file: String,
    /// The namespace file's whole text; empty without a file.
    #[serde(default)]
    pub namespace_file_text: Arc<str>,
}

// === impl MetricSourceContext ===

impl MetricSourceContext {
    /// The source's own configuration in the namespace file, `metricSources.<kind>`; `None` where there is none.
    ///
    /// # Errors
    ///
    /// The configuration does not fit `T`: the message names the file's line and what was expected.
    pub fn section<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        context::section(&self.namespace_file, &self.namespace_file_text, "metricSources", &self.kind)
    }
}

/// What one queue holds. A value that the broker does not tell is none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueReading {
    /// Messages that a worker could take now.
    pub waiting: Option<u64>,
    /// Messages that a worker has taken and not finished. None: the broker does not show it, so an empty queue is no proof that the
    /// work is done.
    pub in_flight: Option<u64>,
    /// Messages that become available later.
    pub delayed: Option<u64>,
    /// Messages that arrived per minute, of late.
    pub arriving_per_minute: Option<f64>,
    /// Workers that wait for a message.
    pub idle_consumers: Option<u64>,
    /// The age of the oldest message that waits.
    #[serde(with = "duration::go_option", skip_serializing_if = "Option::is_none")]
    pub oldest_age: Option<Duration>,
}

/// Why a queue was not read. Its messages count as unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueError {
    /// The broker has no such queue, and makes none by itself.
    #[error("there is no such queue: {0}")]
    NotFound(String),
    /// The operator has not allowed it, or the broker refuses the credentials: what to change.
    #[error("{0}")]
    Denied(String),
    /// The URI cannot be used: what was expected.
    #[error("{0}")]
    Invalid(String),
    /// The broker did not answer, or not in a way that can be read. It is asked again, with a growing pause.
    #[error("{0}")]
    Unavailable(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Section {
        allowed_hosts: Vec<String>,
    }

    #[test]
    fn a_metric_source_gets_its_own_section_and_its_errors_carry_the_files_line() {
        let section = |text: &str| {
            let context = MetricSourceContext {
                kind: "queues".to_owned(),
                namespace_file: "demo.yaml".to_owned(),
                namespace_file_text: text.into(),
                ..MetricSourceContext::default()
            };
            context.section::<Section>().map_err(|error| error.to_string())
        };
        let text = "namespace: demo\nplugins:\n  queues: 1\nmetricSources:\n  other: 2\n  queues: {allowedHosts: [redis]}\n";
        assert_eq!(section(text), Ok(Some(Section { allowed_hosts: vec!["redis".to_owned()] })));
        assert_eq!(section("namespace: demo\nplugins:\n  queues: 1\n"), Ok(None));
        assert_eq!(section(""), Ok(None));
        let expected = "demo.yaml:6:12: unknown key \"allowedHost\", expected allowedHosts";
        assert_eq!(section(&text.replace("allowedHosts", "allowedHost")), Err(expected.to_owned()));
    }
}
