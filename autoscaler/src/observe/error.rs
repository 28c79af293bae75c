//! Why a source could not be read.

use std::{error::Error, io, path::PathBuf, time::Duration};

use http::StatusCode;
use scaler_types::duration::{self, NotADuration};

use crate::http::HttpError;

/// Why a metric source, or a DLX, gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    /// A file that a key of the namespace file names.
    #[error("{key} {}: {source}", .file.display())]
    File { key: &'static str, file: PathBuf, source: io::Error },
    #[error("bearerTokenFile {}: expected one token, a line of visible ASCII characters", .0.display())]
    BadToken(PathBuf),
    #[error("no cluster is configured")]
    NoCluster,
    #[error("{0:#}")]
    Client(anyhow::Error),
    #[error("the cluster has no API {0}: is a metrics adapter installed?")]
    NoMetricsApi(&'static str),
    #[error("the cluster's {api} has none of the versions {versions}")]
    NoMetricsVersion { api: &'static str, versions: String },
    #[error("the cluster has no API group {0:?}: see metrics.resource")]
    NoGroup(String),
    #[error("the cluster has no kind {kind:?} in the group {group:?}: see metrics.resource")]
    NoKind { group: String, kind: String },
    #[error("GET {path}: {source}")]
    Get { path: String, source: Box<Self> },
    #[error(transparent)]
    InvalidRequest(#[from] http::Error),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error(transparent)]
    Kube(#[from] kube::Error),
    #[error(transparent)]
    Body(Box<dyn Error + Send + Sync>),
    #[error("no answer within {}", duration::short(*.0))]
    Timeout(Duration),
    #[error("it answered {status}: {text}{}", if .status.is_redirection() { "; set url to the redirect's target" } else { "" })]
    Status { status: StatusCode, text: String },
    #[error("cannot parse its answer: {0}")]
    Parse(#[from] serde_json::Error),
    #[error("cannot parse its answer: {0}")]
    ParseDuration(#[from] NotADuration),
    /// Prometheus answered with a status of its own.
    #[error("it answered {status}: {error}")]
    Query { status: String, error: String },
    #[error("its answer may not be complete: {}", .0.join("; "))]
    Warnings(Vec<String>),
    #[error("its answer has no data")]
    NoData,
    #[error("the query gives a {0}, expected a vector: one value for each resource")]
    NotAVector(String),
    /// Another DLX took over the address.
    #[error("another DLX, {0}, answered at its address")]
    OtherDlx(String),
}
