//! The calls of a metric source, as the autoscaler makes them.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use scaler_types::{
    QueueError, QueueReading,
    v1::{Fault, MetricSourceDescription, method},
};
use serde::Deserialize as _;
use serde_json::Value;

use crate::{
    ANSWER_WITHIN, CallError, CallFuture,
    breaker::Breaker,
    object::{NoResult, Object},
    pace::{self, Pace},
};

/// A metric source running for one namespace file: what [`Plugin::start_metric_source`](crate::Plugin::start_metric_source) gives, or
/// a fake in a test.
///
/// A call that it does not answer within [`ANSWER_WITHIN`] fails, and so does one that panics.
pub trait RunningMetricSource: Send + Sync + 'static {
    /// Its name, the key of its configuration under `metricSources`.
    fn kind(&self) -> &str;

    /// The namespace it was started for; `*` is all.
    fn namespace(&self) -> &str;

    /// The URI schemes that it reads, in lower case.
    fn schemes(&self) -> &[String];

    /// Reads these queues, and answers for each, in their order. An entry that cannot be parsed is that queue's error.
    ///
    /// # Errors
    ///
    /// None is known: no answer in time (several times in a row: left alone), an error, a panic, an answer for another number of
    /// queues.
    fn read<'a>(
        &'a self,
        queues: &'a [String],
    ) -> CallFuture<'a, Result<Vec<Result<QueueReading, QueueError>>, CallError>>;

    /// Waits until one of these queues, each of which was empty at its last reading, has a message, and returns those that have;
    /// half a minute at most, then none.
    ///
    /// # Errors
    ///
    /// No answer in time (several times in a row: left alone), an error, a panic.
    fn changes<'a>(&'a self, queues: &'a [String]) -> CallFuture<'a, Result<Vec<String>, CallError>>;

    /// Stops it. It counts as stopped after [`STOP_WITHIN`](crate::STOP_WITHIN), whatever the result.
    fn stop(&self) -> CallFuture<'_, ()> {
        Box::pin(async {})
    }
}

/// A metric source in its library.
pub(crate) struct MetricSourceInstance {
    object: Object,
    schemes: Vec<String>,
    reading: Breaker,
    watching: Breaker,
    /// Of the answers to `changes`.
    pace: Mutex<Pace>,
}

/// How often a source is asked that names queues, or none, at once each time.
const CHANGE_INTERVAL: Duration = Duration::from_millis(100);

// === impl RunningMetricSource ===

/// One is equal to itself alone.
impl PartialEq for dyn RunningMetricSource {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::addr_eq(self, other)
    }
}

impl Eq for dyn RunningMetricSource {}

impl fmt::Debug for dyn RunningMetricSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningMetricSource")
            .field("kind", &self.kind())
            .field("namespace", &self.namespace())
            .finish_non_exhaustive()
    }
}

// === impl MetricSourceInstance ===

impl MetricSourceInstance {
    /// Asks it which schemes it reads.
    pub(crate) async fn start(object: Object) -> Result<Self, CallError> {
        let MetricSourceDescription { schemes } = object.call(ANSWER_WITHIN, method::DESCRIBE, &()).await?;
        let (reading, watching) = Default::default();
        Ok(Self { object, schemes, reading, watching, pace: Mutex::new(Pace::new()) })
    }
}

impl MetricSourceInstance {
    /// Under this lock a field or two are written: it is whole even after a panic.
    fn lock_pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RunningMetricSource for MetricSourceInstance {
    fn kind(&self) -> &str {
        &self.object.kind
    }

    fn namespace(&self) -> &str {
        &self.object.namespace
    }

    fn schemes(&self) -> &[String] {
        &self.schemes
    }

    fn read<'a>(
        &'a self,
        queues: &'a [String],
    ) -> CallFuture<'a, Result<Vec<Result<QueueReading, QueueError>>, CallError>> {
        Box::pin(async move {
            let readings = self.object.watched(&self.reading, method::READ, &queues, parse_readings).await?;
            if readings.len() == queues.len() {
                return Ok(readings);
            }
            let (kind, asked, answered) = (&self.object.kind, queues.len(), readings.len());
            let why =
                format!("metric source {kind} was asked for {asked} queues and answered for {answered}");
            Err(NoResult::Fault(Fault::Failed(why)).into())
        })
    }

    fn changes<'a>(&'a self, queues: &'a [String]) -> CallFuture<'a, Result<Vec<String>, CallError>> {
        Box::pin(async move {
            let parse = |answer: &[u8]| serde_json::from_slice(answer);
            let due = self.lock_pace().wait();
            due.await;
            let changed = self.object.watched(&self.watching, method::CHANGES, &queues, parse).await;
            if self.lock_pace().count_answer(CHANGE_INTERVAL) {
                pace::report(&self.object.kind, &self.object.namespace);
            }
            changed
        })
    }

    fn stop(&self) -> CallFuture<'_, ()> {
        Box::pin(self.object.stop())
    }
}

/// Parses the answer to `read`: an entry that cannot be parsed costs that queue only.
fn parse_readings(answer: &[u8]) -> serde_json::Result<Vec<Result<QueueReading, QueueError>>> {
    serde_json::from_slice(answer).or_else(|_| {
        let entries: Vec<Value> = serde_json::from_slice(answer)?;
        let parse = |entry: Value| {
            Result::<QueueReading, QueueError>::deserialize(&entry).unwrap_or_else(|error| {
                Err(QueueError::Unavailable(format!("the metric source's answer cannot be parsed: {error}")))
            })
        };
        Ok(entries.into_iter().map(parse).collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_cannot_be_parsed_costs_its_queue_only() {
        let answer = br#"[{"Ok": {"waiting": 3, "later": true}}, {"Ok": {"waiting": -1}}, {"Err": {"busy": 1}}, 7, {"Err": {"denied": "no"}}]"#;
        let readings = parse_readings(answer).unwrap();
        assert_eq!(readings[0], Ok(QueueReading { waiting: Some(3), ..QueueReading::default() }));
        for (entry, why) in [(1, "-1"), (2, "busy"), (3, "7")] {
            let Err(QueueError::Unavailable(error)) = &readings[entry] else { panic!("{readings:?}") };
            assert!(error.contains("cannot be parsed") && error.contains(why), "{error}");
        }
        assert_eq!(readings[4], Err(QueueError::Denied("no".to_owned())));
        parse_readings(b"{}").unwrap_err();
        parse_readings(br#"[{"Ok": {}}"#).unwrap_err();
    }
}
