//! HTTP to a resource and back: connections that are kept, requests that may be sent again, switches of protocol.

mod answer_framing;
mod body;
mod dial;
mod forward;
mod habit;
mod headers;
mod http1;
mod library_body;
mod pool;
mod relay;
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
pub(crate) use relay::{Relayed, serve as relay};
pub(crate) use static_response::serve as serve_static_response;
use tokio_util::sync::CancellationToken;
pub(crate) use upload::RequestBody;

use crate::{
    admit::{Admission, Admitted},
    answer::ErrorResponse,
    client::{ConnectionGuard, ConnectionProgress, Socket},
    identify::{Identifier, Origin},
};

/// The state that the requests of one connection share.
#[derive(Debug)]
pub(crate) struct ConnectionContext {
    /// Their origin.
    pub(crate) origin: Origin,
    /// Finds their resources.
    pub(crate) identifier: Arc<Identifier>,
    /// Cancelled when the DLX drains: open connections are brought to their end. A child token of the thread.
    pub(crate) draining: CancellationToken,
    /// Counts the connection until it is dropped.
    pub(crate) _open: ConnectionGuard,
    /// The connection pool of the thread.
    pub(crate) pool: Arc<Pool>,
    /// The first request, if it was held before the connection was served.
    pub(crate) parked: Mutex<Option<ParkedRequest>>,
    /// The client's connection, if it is HTTP/1.
    pub(crate) socket: Option<Socket>,
    /// The connection's progress.
    pub(crate) progress: Arc<ConnectionProgress>,
}

/// A connection's first request, or the one that the relay hands over: it was admitted before the HTTP library saw it.
#[derive(Debug)]
pub(crate) struct ParkedRequest {
    /// Its admission.
    pub(crate) admission: Admission,
    /// Whether it was admitted.
    pub(crate) outcome: Result<Admitted, Arc<ErrorResponse>>,
    /// Whether it counts as a request already.
    pub(crate) counted: bool,
    /// Whether it was sent before, on a connection that was closed meanwhile.
    pub(crate) sent_before: bool,
}

// === impl ConnectionContext ===

impl ConnectionContext {
    /// Parks the request that comes next.
    pub(crate) fn park(&self, request: ParkedRequest) {
        *self.parked.lock().unwrap_or_else(PoisonError::into_inner) = Some(request);
    }

    /// Takes the parked request.
    pub(crate) fn take_parked(&self) -> Option<ParkedRequest> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
