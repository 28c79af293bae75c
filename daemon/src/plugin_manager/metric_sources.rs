//! The metric sources that run for one namespace file.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use plugin_host::{METRIC_SOURCES_FOLDER, RunningMetricSource};
use scaler_types::QueueError;
use tokio::sync::watch;

/// The metric sources that run for one namespace file, now and as they are replaced. Clones follow the same file.
#[derive(Clone, Debug)]
pub struct MetricSources(watch::Receiver<Arc<Sources>>);

/// Those of one moment.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Sources {
    /// In the order of their kinds.
    pub(super) running: Vec<Arc<dyn RunningMetricSource>>,
    /// Those that are loaded and do not run, each with why.
    pub(super) not_running: Vec<String>,
}

/// The senders of all files, by namespace.
#[derive(Default)]
pub(super) struct Senders(BTreeMap<String, watch::Sender<Arc<Sources>>>);

// === impl MetricSources ===

impl MetricSources {
    /// These, which are never replaced: for tests, and for a daemon that has none.
    pub fn fixed(running: Vec<Arc<dyn RunningMetricSource>>) -> Self {
        Self(watch::Sender::new(Arc::new(Sources { running, not_running: Vec::new() })).subscribe())
    }

    /// The source that reads this queue's URI now. Of two that read its scheme it is the one whose kind comes first.
    ///
    /// # Errors
    ///
    /// It is no URI, or no running source reads its scheme: the message says what to do.
    pub fn route(&self, queue: &str) -> Result<Arc<dyn RunningMetricSource>, QueueError> {
        let scheme = queue.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        let Some(scheme) = scheme.filter(|scheme| !scheme.is_empty()) else {
            // Not the text itself: it may be a password.
            return Err(QueueError::Invalid(
                "not the URI of a queue, expected one as in redis://HOST:PORT/LIST".to_owned(),
            ));
        };
        let sources = self.0.borrow();
        let source = sources.running.iter().find(|source| source.schemes().contains(&scheme));
        source.cloned().ok_or_else(|| {
            let mut why = format!(
                "no metric source reads {scheme}://...: put its library into plugins/{METRIC_SOURCES_FOLDER}"
            );
            for not_running in &sources.not_running {
                why += &format!("; {not_running}");
            }
            QueueError::Unavailable(why)
        })
    }

    /// The running sources.
    pub fn running(&self) -> Vec<Arc<dyn RunningMetricSource>> {
        self.0.borrow().running.clone()
    }

    /// Waits until a source was started, replaced or removed since the last call. Not once the daemon is stopping.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

// === impl Sources ===

impl Sources {
    /// Schemes that two of them read, as warnings about the file.
    pub(super) fn claimed_twice(&self, file: &Path) -> Vec<String> {
        let mut readers = BTreeMap::new();
        let mut warnings = Vec::new();
        for source in &self.running {
            for scheme in source.schemes() {
                let first = *readers.entry(scheme).or_insert(source.kind());
                if first != source.kind() {
                    warnings.push(format!(
                        "{}: the metric sources {first} and {} both read {scheme}://, {first} is used: remove one of their libraries",
                        file.display(),
                        source.kind(),
                    ));
                }
            }
        }
        warnings
    }
}

// === impl Senders ===

impl Senders {
    /// The sources of a namespace's file are these now.
    pub(super) fn replace(&mut self, namespace: &str, sources: Sources) -> MetricSources {
        let sender = self.0.entry(namespace.to_owned()).or_default();
        sender.send_if_modified(|now| {
            let changed = **now != sources;
            *now = Arc::new(sources);
            changed
        });
        MetricSources(sender.subscribe())
    }

    /// Only these namespaces have a file.
    pub(super) fn retain(&mut self, kept: impl Fn(&str) -> bool) {
        self.0.retain(|namespace, _| kept(namespace));
    }
}

#[cfg(test)]
mod tests {
    use plugin_host::{CallError, CallFuture};
    use scaler_types::QueueReading;

    use super::*;

    struct Fake(&'static str, Vec<String>);

    impl RunningMetricSource for Fake {
        fn kind(&self) -> &str {
            self.0
        }

        fn namespace(&self) -> &str {
            "demo"
        }

        fn schemes(&self) -> &[String] {
            &self.1
        }

        fn read<'a>(
            &'a self,
            _: &'a [String],
        ) -> CallFuture<'a, Result<Vec<Result<QueueReading, QueueError>>, CallError>> {
            panic!("not called")
        }

        fn changes<'a>(&'a self, _: &'a [String]) -> CallFuture<'a, Result<Vec<String>, CallError>> {
            panic!("not called")
        }
    }

    fn fake(kind: &'static str, schemes: &[&str]) -> Arc<dyn RunningMetricSource> {
        Arc::new(Fake(kind, schemes.iter().map(ToString::to_string).collect()))
    }

    #[tokio::test]
    async fn a_queue_is_read_by_the_source_of_its_scheme_and_a_replacement_is_followed() {
        let mut senders = Senders::default();
        let sources = |running, not_running: &[&str]| Sources {
            running,
            not_running: not_running.iter().map(ToString::to_string).collect(),
        };
        let (first, second) = (fake("queues", &["redis", "rediss"]), fake("shell", &["shell", "redis"]));
        let mut followed = senders.replace("demo", sources(vec![first.clone(), second.clone()], &[]));
        for (queue, source) in [("redis://h/a", &first), ("REDISS://h/a", &first), ("shell://a", &second)] {
            assert_eq!(followed.route(queue).as_ref(), Ok(source), "{queue}");
        }
        for queue in ["mails", "://h/a", ""] {
            assert!(matches!(followed.route(queue), Err(QueueError::Invalid(_))), "{queue}");
        }
        let twice = sources(vec![first.clone(), second.clone()], &[]).claimed_twice("demo.yaml".as_ref());
        assert_eq!(twice.len(), 1);
        assert!(twice[0].contains("queues and shell both read redis://, queues is used"), "{twice:?}");
        let missing = "no metric source reads sqs://...: put its library into plugins/metric-sources";
        assert_eq!(followed.route("sqs://secret@h/a"), Err(QueueError::Unavailable(missing.to_owned())));

        senders.replace("demo", sources(vec![first.clone(), second.clone()], &[]));
        let waited = tokio::time::timeout(std::time::Duration::ZERO, followed.changed());
        assert!(waited.await.is_err(), "nothing was replaced");
        let replaced = fake("queues", &["redis"]);
        senders.replace("demo", sources(vec![replaced.clone()], &["metric source shell: no"]));
        followed.changed().await;
        assert_eq!(followed.route("redis://h/a"), Ok(replaced));
        let why = followed.route("shell://a").unwrap_err().to_string();
        assert!(why.ends_with("plugins/metric-sources; metric source shell: no"), "{why}");
    }
}
