//! What holds for the resources of one namespace file and one plugin: file, then flag, then the plugin's own default,
//! then built-in.

mod keys;
mod options;
#[cfg(test)]
mod tests;
pub(crate) mod values;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use scaler_types::duration;
use serde::{Deserialize, Serialize};

pub use keys::FileKey;
pub(crate) use keys::{Expected, keys, present};
use options::StaticResponseKeys;
pub use options::{AutoscalerOptions, DlxOptions, Settings, SettingsLayer};
pub use values::{InvalidValue, parse_bytes};

/// The source of the resources' activity.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MetricsSource {
    /// The DLXs, through which all requests pass.
    Dlx,
    /// A Prometheus, or what answers as one.
    Prometheus(Arc<Prometheus>),
    /// The cluster's custom metrics API.
    Kubernetes(ObjectKind),
}

/// A Prometheus and its queries.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Prometheus {
    /// Its address, without `/api/v1/query`.
    pub url: String,
    /// A file with the token that is sent along, read again for each cycle.
    pub bearer_token_file: Option<PathBuf>,
    /// The CA certificates to verify it with, in PEM; without it those of the system.
    pub ca_file: Option<PathBuf>,
    /// How often it scrapes what the queries are about: from this and a number of scrapes follows how far back they
    /// reach.
    #[serde(with = "duration::go")]
    pub scrape_interval: Duration,
    /// By metric name. In the texts `$window` and `$namespace` stand for the metric's window and the file's namespace.
    pub queries: BTreeMap<String, MetricQuery>,
}

/// The queries of one metric.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MetricQuery {
    /// Gives the metric's value for each resource.
    pub query: String,
    /// Gives for each resource how many samples within `$window` its value rests on.
    pub sample_count_query: String,
    /// What it means that there is no value for a resource.
    pub absent: Absent,
    /// The label of a result that holds the resource's name; its namespace is in `namespace`, if it has that.
    pub label: String,
}

/// What it means that there is no value for a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Absent {
    /// Nothing is known: it is kept awake.
    #[default]
    Keep,
    /// It was idle, if scrapes of its own target cover the window: a counter that appears with the first request.
    Idle,
}

/// A kind of object in a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ObjectKind {
    /// Its API group; empty is the core group.
    pub group: String,
    /// Its kind, e.g. `Deployment`.
    pub kind: String,
}

/// Requests that the DLX answers itself: they neither wake nor count. Every condition that is set has to match.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", try_from = "StaticResponseKeys")]
pub struct StaticResponse {
    /// How the User-Agent header begins; case sensitive.
    pub user_agent: Option<String>,
    /// The exact path, without the query.
    pub path: Option<String>,
    /// The answer's status.
    pub status: u16,
    /// When it is given.
    pub when: StaticResponseWhen,
}

/// When the DLX gives a static response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StaticResponseWhen {
    /// While the resource is asleep, starts, or is about to be scaled to zero. Else the request is forwarded, and not counted.
    #[default]
    Asleep,
    /// Also while the resource is awake.
    Always,
}

/// Another autoscaler, whose arithmetic decides how many replicas a resource gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compatibility {
    /// practo's Worker Pod Autoscaler.
    WorkerPodAutoscaler,
}

/// Which resource gets a request that names two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MultiTargetStrategy {
    /// Either, at random.
    Random,
    /// The first.
    Primary,
    /// The second.
    Canary,
}

/// What the DLX does with the headers that name the client (`X-Forwarded-*`, `Forwarded`, `X-Real-IP`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ForwardedHeaders {
    /// They are passed on unchanged. Where none of `X-Forwarded-For`, `Forwarded` and `X-Real-IP` is there, `X-Forwarded-For`
    /// with the peer's address is added.
    Preserve,
    /// The peer's address is added to `X-Forwarded-For`, and `X-Forwarded-Host` and `X-Forwarded-Proto` where they are missing.
    Append,
    /// They are removed, and `X-Forwarded-For`, `X-Forwarded-Host` and `X-Forwarded-Proto` say what the DLX sees.
    Replace,
}

impl Expected for Compatibility {
    const EXPECTED: &'static str = "`worker-pod-autoscaler`";
}

impl Expected for MultiTargetStrategy {
    const EXPECTED: &'static str = "`random`, `primary` or `canary`";
}

impl Expected for ForwardedHeaders {
    const EXPECTED: &'static str = "`preserve`, `append` or `replace`";
}

impl Expected for StaticResponseWhen {
    const EXPECTED: &'static str = "`asleep` or `always`";
}

impl Expected for StaticResponse {
    const EXPECTED: &'static str = "a map";
}

impl Expected for Absent {
    const EXPECTED: &'static str = "`keep` or `idle`";
}
