//! Metric source of kind `queues`: how much work waits in beanstalkd, Redis and folders. One file per broker, each a cargo feature.
//!
//! A workload's user names a queue by its URI; which hosts and folders it may name, and how to log in there, is the operator's
//! (`metricSources.queues` in a namespace file). Nothing is ever taken from a queue.

#![cfg_attr(
    not(all(feature = "beanstalkd", feature = "redis", feature = "file")),
    allow(dead_code, reason = "brokers that are left out use it")
)]

mod allowed;
#[cfg(feature = "beanstalkd")]
mod beanstalkd;
mod config;
#[cfg(any(feature = "beanstalkd", feature = "redis"))]
mod connection;
#[cfg(feature = "file")]
mod file;
mod kind;
#[cfg(any(feature = "beanstalkd", feature = "redis"))]
mod rate;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "redis")]
mod resp;
mod uri;

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt as _,
    future::{join_all, select_all},
};
use scaler_types::{MetricSource, MetricSourceContext, QueueError, QueueReading, Result};
use tokio::time::Instant;

use config::QueuesSection;
#[cfg(feature = "file")]
use kind::QueueKind as _;
use kind::{Reading, read_kind};
use uri::Uri;

/// How often empty queues of brokers that do not report new messages are read: replicas follow a first message within a second.
const POLL: Duration = Duration::from_millis(500);

/// After this time without a reading a broker's entry is removed.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// The host and port of a queue's URI; none: it is no URI, or it names a folder.
type BrokerAddress = Option<(String, Option<u16>)>;

/// The metric source.
pub struct Queues {
    section: QueuesSection,
    /// When the empty queues of each broker were read last.
    polls: Mutex<HashMap<BrokerAddress, Instant>>,
    #[cfg(feature = "beanstalkd")]
    tubes: beanstalkd::Tubes,
    #[cfg(feature = "redis")]
    keys: redis::RedisKeys,
    #[cfg(feature = "file")]
    folders: file::SpoolFolders,
}

scaler_types::export_metric_source!(Queues);

// === impl Queues ===

impl MetricSource for Queues {
    const KIND: &'static str = "queues";

    const SCHEMES: &'static [&'static str] = &[
        #[cfg(feature = "beanstalkd")]
        "beanstalkd",
        #[cfg(feature = "beanstalkd")]
        "beanstalk",
        #[cfg(feature = "redis")]
        "redis",
        #[cfg(feature = "redis")]
        "rediss",
        #[cfg(feature = "file")]
        "file",
    ];

    async fn new(context: MetricSourceContext) -> Result<Self> {
        Ok(Self {
            section: context.section()?.unwrap_or_default(),
            polls: Mutex::default(),
            #[cfg(feature = "beanstalkd")]
            tubes: beanstalkd::Tubes::default(),
            #[cfg(feature = "redis")]
            keys: redis::RedisKeys::default(),
            #[cfg(feature = "file")]
            folders: file::SpoolFolders::default(),
        })
    }

    async fn read(&self, queues: &[String]) -> Result<Vec<Result<QueueReading, QueueError>>> {
        let uris: Vec<_> = queues.iter().map(|queue| Uri::parse(queue)).collect();
        let reads = [
            #[cfg(feature = "beanstalkd")]
            read_kind(&self.tubes, &uris, &self.section).boxed(),
            #[cfg(feature = "redis")]
            read_kind(&self.keys, &uris, &self.section).boxed(),
            #[cfg(feature = "file")]
            read_kind(&self.folders, &uris, &self.section).boxed(),
        ];
        let read = join_all(reads).await;
        let unread = |uri: &Result<Uri, QueueError>| match uri {
            Ok(_) => Err(QueueError::Invalid(format!("expected a queue of {}", Self::SCHEMES.join(", ")))),
            Err(error) => Err(error.clone()),
        };
        let mut readings: Vec<_> = uris.iter().map(unread).collect();
        for (index, reading) in read.into_iter().flatten() {
            readings[index] = reading;
        }
        Ok(readings)
    }

    async fn changes(&self, queues: &[String]) -> Result<Vec<String>> {
        let mut by_broker: HashMap<BrokerAddress, Vec<String>> = HashMap::new();
        #[cfg(feature = "file")]
        let mut folders = Vec::new();
        for queue in queues {
            let uri = Uri::parse(queue).ok();
            #[cfg(feature = "file")]
            if let Some(uri) = uri.as_ref().filter(|uri| uri.scheme == "file")
                && let Ok(folder) = file::SpoolFolders::parse(uri, &self.section)
            {
                folders.push((queue.clone(), folder));
                continue;
            }
            by_broker.entry(uri.map(|uri| (uri.host, uri.port))).or_default().push(queue.clone());
        }
        // Each by itself: a broker that does not answer keeps only its own queues from being noticed.
        let polls = by_broker.into_iter().map(|(broker, queues)| self.poll(broker, queues).boxed());
        let mut waits: Vec<_> = polls.collect();
        #[cfg(feature = "file")]
        if !folders.is_empty() {
            waits.push(self.watch(folders).boxed());
        }
        match waits.is_empty() {
            true => std::future::pending().await,
            false => select_all(waits).await.0,
        }
    }
}

impl Queues {
    #[cfg(feature = "file")]
    async fn watch(&self, folders: Vec<(String, file::SpoolFolder)>) -> Result<Vec<String>> {
        match self.folders.changes(&folders).await {
            Ok(changed) => Ok(changed),
            Err(error) => {
                tracing::warn!(%error, "failed to watch folders, reading them at intervals: raise fs.inotify.max_user_watches and max_user_instances");
                self.poll(None, folders.into_iter().map(|(queue, _)| queue).collect()).await
            }
        }
    }

    /// Reads the queues of one broker at intervals until a message waits in one: these brokers do not tell, and all queues of one are
    /// read in a round trip. The intervals go on where an earlier call ended, which may have been replaced by this one.
    async fn poll(&self, broker: BrokerAddress, queues: Vec<String>) -> Result<Vec<String>> {
        loop {
            let last = *self.polls().entry(broker.clone()).or_insert_with(Instant::now);
            #[expect(
                clippy::disallowed_methods,
                reason = "brokers that do not tell of new messages are asked"
            )]
            tokio::time::sleep_until(last + POLL).await;
            let began = Instant::now();
            let readings = self.read(&queues).await?;
            {
                let mut polls = self.polls();
                polls.retain(|_, last| began.duration_since(*last) < FORGOTTEN_AFTER);
                polls.insert(broker.clone(), began);
            }
            let has_message =
                |reading: &Reading| matches!(reading, Ok(QueueReading { waiting: Some(1..), .. }));
            let changed = queues.iter().zip(&readings).filter(|(_, reading)| has_message(reading));
            let changed: Vec<_> = changed.map(|(queue, _)| queue.clone()).collect();
            if !changed.is_empty() {
                return Ok(changed);
            }
        }
    }

    fn polls(&self) -> MutexGuard<'_, HashMap<BrokerAddress, Instant>> {
        self.polls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
