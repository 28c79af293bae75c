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

use std::time::Duration;

use futures_util::{FutureExt as _, future::join_all};
use scaler_types::{MetricSource, MetricSourceContext, QueueError, QueueReading, Result};

use config::QueuesSection;
use kind::{Reading, read_kind};
use uri::Uri;

/// How often queues are read again whose broker does not tell of new messages.
const POLL: Duration = Duration::from_secs(1);

/// The metric source.
pub struct Queues {
    section: QueuesSection,
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

    #[cfg(feature = "file")]
    async fn changes(&self, queues: &[String]) -> Result<Vec<String>> {
        use kind::QueueKind as _;

        let (mut watched, mut polled) = (Vec::new(), Vec::new());
        for queue in queues {
            let uri = Uri::parse(queue).ok().filter(|uri| uri.scheme == "file");
            match uri.and_then(|uri| file::SpoolFolders::parse(&uri, &self.section).ok()) {
                Some(folder) => watched.push((queue.clone(), folder)),
                None => polled.push(queue.clone()),
            }
        }
        tokio::select! {
            changed = self.folders.changes(&watched), if !watched.is_empty() => match changed {
                Ok(changed) => Ok(changed),
                Err(error) => {
                    tracing::warn!(%error, "failed to watch folders, reading them each second: raise fs.inotify.max_user_watches and max_user_instances");
                    self.poll(queues).await
                }
            },
            changed = self.poll(&polled), if !polled.is_empty() => changed,
            else => std::future::pending().await,
        }
    }

    #[cfg(not(feature = "file"))]
    async fn changes(&self, queues: &[String]) -> Result<Vec<String>> {
        self.poll(queues).await
    }
}

impl Queues {
    /// Reads each second until a message waits in one: these brokers do not tell, and all queues of one are read in a round trip.
    async fn poll(&self, queues: &[String]) -> Result<Vec<String>> {
        loop {
            #[expect(
                clippy::disallowed_methods,
                reason = "brokers that do not tell of new messages are asked"
            )]
            tokio::time::sleep(POLL).await;
            let readings = self.read(queues).await?;
            let has_message =
                |reading: &Reading| matches!(reading, Ok(QueueReading { waiting: Some(1..), .. }));
            let changed = queues.iter().zip(&readings).filter(|(_, reading)| has_message(reading));
            let changed: Vec<_> = changed.map(|(queue, _)| queue.clone()).collect();
            if !changed.is_empty() {
                return Ok(changed);
            }
        }
    }
}
