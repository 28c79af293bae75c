//! What the brokers have in common.

use std::{collections::HashMap, future::Future, hash::Hash};

use scaler_types::{QueueError, QueueReading};

use crate::{config::QueuesSection, uri::Uri};

/// What was read of a queue, or why it was not.
pub(crate) type Reading = Result<QueueReading, QueueError>;

/// The queues of one kind of broker.
pub(crate) trait QueueKind: Sync {
    /// The schemes of their URIs, in lower case.
    const SCHEMES: &'static [&'static str];

    /// A queue, as its URI names it.
    type Queue: Clone + Eq + Hash + Send + Sync;

    /// Reads a URI of one of the schemes, and checks that the operator allows what it names.
    fn parse(uri: &Uri, section: &QueuesSection) -> Result<Self::Queue, QueueError>;

    /// Reads the queues, in any order.
    fn read(
        &self,
        queues: Vec<Self::Queue>,
        section: &QueuesSection,
    ) -> impl Future<Output = Vec<(Self::Queue, Reading)>> + Send;
}

/// Reads those queues that are of this kind, each once, and returns the readings with their places among all.
pub(crate) async fn read_kind<K: QueueKind>(
    kind: &K,
    uris: &[Result<Uri, QueueError>],
    section: &QueuesSection,
) -> Vec<(usize, Reading)> {
    let mut readings = Vec::new();
    // Two workloads may read one queue.
    let mut places: HashMap<K::Queue, Vec<usize>> = HashMap::new();
    for (place, uri) in uris.iter().enumerate() {
        let Some(uri) = uri.as_ref().ok().filter(|uri| K::SCHEMES.contains(&uri.scheme.as_str())) else {
            continue;
        };
        match K::parse(uri, section) {
            Ok(queue) => places.entry(queue).or_default().push(place),
            Err(error) => readings.push((place, Err(error))),
        }
    }
    for (queue, reading) in kind.read(places.keys().cloned().collect(), section).await {
        let places = places.get(&queue).into_iter().flatten();
        readings.extend(places.map(|place| (*place, reading.clone())));
    }
    readings
}

/// Sorts into groups that have the same key.
#[cfg(any(feature = "beanstalkd", feature = "redis"))]
pub(crate) fn group_by<T, K: Eq + Hash>(items: Vec<T>, key: impl Fn(&T) -> K) -> HashMap<K, Vec<T>> {
    let mut groups: HashMap<K, Vec<T>> = HashMap::new();
    for item in items {
        groups.entry(key(&item)).or_default().push(item);
    }
    groups
}
