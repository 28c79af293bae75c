//! HTTP to a resource and back: connections that are kept, requests that may be sent again, switches of protocol.

mod body;
mod dial;
mod forward;
mod habit;
mod headers;
mod pool;
mod replay;
mod resend;
mod static_response;
mod upgrade;
mod upload;
mod upstream;

use std::sync::{Arc, Mutex, PoisonError};

pub(crate) use body::ResponseBody;
pub(crate) use dial::dial;
pub(crate) use forward::forward;
pub(crate) use headers::marks;
pub(crate) use pool::{Pool, Pools};
pub(crate) use static_response::serve as serve_static_response;
use tokio_util::sync::CancellationToken;
pub(crate) use upload::RequestBody;

use crate::{
    admit::{Admission, Admitted},
    answer::ErrorResponse,
    client::{ConnectionGuard, ConnectionProgress, Socket},
    identify::{Identifier, Origin},
};

/// What the requests of one connection have in common.
#[derive(Debug)]
pub(crate) struct ConnectionContext {
    /// Where they come from.
    pub(crate) origin: Origin,
    /// Finds out for whom they are.
    pub(crate) identifier: Arc<Identifier>,
    /// The DLX is shutting down: connections are brought to their end. Of the thread that serves this one.
    pub(crate) draining: CancellationToken,
    /// Counts the connection until it is dropped.
    pub(crate) _open: ConnectionGuard,
    /// Connections to resources, of this thread.
    pub(crate) pool: Arc<Pool>,
    /// What its first request was told, if that was held before the connection was served.
    pub(crate) parked: Mutex<Option<ParkedRequest>>,
    /// The connection, where it carries one request at a time.
    pub(crate) socket: Option<Socket>,
    /// What the connection is doing.
    pub(crate) progress: Arc<ConnectionProgress>,
}

/// A connection's first request that was held before the connection was served.
#[derive(Debug)]
pub(crate) struct ParkedRequest {
    /// Its way to its resource.
    pub(crate) admission: Admission,
    /// What it was told.
    pub(crate) outcome: Result<Admitted, Arc<ErrorResponse>>,
}

// === impl ConnectionContext ===

impl ConnectionContext {
    /// What the connection's first request was told while it was parked; once.
    pub(crate) fn take_parked(&self) -> Option<ParkedRequest> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
