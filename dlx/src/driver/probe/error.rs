use std::io;

use http::StatusCode;

use crate::answer::explain;

/// Why an endpoint cannot be probed as its plugin says.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidProbe {
    #[error("{0:?} is no path")]
    Path(String),
    #[error("{name:?}: {value:?} is no header")]
    Header { name: String, value: String },
    #[error("the service's name is longer than {0} bytes")]
    ServiceName(usize),
    #[error("{address:?} is no address: {source}")]
    Address { address: String, source: http::Error },
}

/// Why an endpoint that was probed is not ready.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    #[error("no answer in time")]
    Timeout,
    #[error(transparent)]
    Connection(#[from] io::Error),
    #[error("GET {path} answers {status}, not 2xx or 3xx")]
    HttpStatus { path: String, status: String },
    #[error("GET {0} is not answered in HTTP/1")]
    NotHttp1(String),
    #[error("cannot speak gRPC: {}", explain(.0))]
    Grpc(#[from] hyper::Error),
    #[error("the health service answers {0}")]
    GrpcHttpStatus(StatusCode),
    #[error("the health service does not know the service (NOT_FOUND {0})")]
    UnknownService(String),
    #[error("it has no health service (UNIMPLEMENTED {0})")]
    NoHealthService(String),
    #[error("the health service answers with status {status} {message}")]
    GrpcStatus { status: String, message: String },
    #[error("the health service's answer is longer than {0} bytes")]
    LongAnswer(usize),
    #[error("the health service's answer has no status")]
    NoStatus,
    #[error("the health service's answer has no message")]
    NoMessage,
    #[error("the health service's answer makes no sense")]
    Malformed,
    #[error("the health service says {}", serving_status_name(*.0))]
    NotServing(u64),
}

/// The name of a `HealthCheckResponse.ServingStatus`.
fn serving_status_name(status: u64) -> String {
    match status {
        0 => "UNKNOWN".to_owned(),
        2 => "NOT_SERVING".to_owned(),
        3 => "SERVICE_UNKNOWN".to_owned(),
        other => other.to_string(),
    }
}
