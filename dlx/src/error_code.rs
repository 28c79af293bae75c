//! The error codes of the DLX's own answers. `cargo xtask reference` makes docs/reference/errors.md of these texts: the first
//! paragraph is the cause, `To do:` begins what the client does.

use http::StatusCode;

/// A kind of error: the status of the answer, and the code in its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ErrorCode {
    status: u16,
    name: &'static str,
}

/// The request is malformed, or two parsers could read it differently: two lengths, two Hosts, neither HTTP/1.1 nor HTTP/1.0.
/// The connection is closed.
///
/// To do: correct the request. Sending it again does not help.
pub(crate) const MALFORMED_REQUEST: ErrorCode = ErrorCode::new(400, "malformed_request");

/// No resource has the host name in the request's `Host`, which the body shows.
///
/// To do: check the name. On Kubernetes the workload may not be opted in, or an Event `HostRefused` on it says why the name
/// does not count.
pub(crate) const UNKNOWN_HOST: ErrorCode = ErrorCode::new(404, "unknown_host");

/// The resource waited for more of the request's body for `--client-stall-timeout`, and none came. The connection is closed.
///
/// To do: send the body faster, or raise the timeout.
pub(crate) const CLIENT_STALLED: ErrorCode = ErrorCode::new(408, "client_stalled");

/// The target is so long that the request's first line does not fit into the 64 KiB that a head may have. The connection is
/// closed.
///
/// To do: send a shorter target.
pub(crate) const TARGET_TOO_LONG: ErrorCode = ErrorCode::new(414, "target_too_long");

/// The head is longer than 64 KiB, or has more than 1,000 fields. The connection is closed. In HTTP/2 the answer has no body.
///
/// To do: send fewer or shorter header fields.
pub(crate) const HEAD_TOO_LARGE: ErrorCode = ErrorCode::new(431, "head_too_large");

/// The connection to the resource failed. The resource may have seen the request.
///
/// To do: send it again only if it may be done twice. Look into the resource's log.
pub(crate) const UPSTREAM_ERROR: ErrorCode = ErrorCode::new(502, "upstream_error");

/// A limit on held requests is reached (`--max-held-requests`, `--max-held-bytes`, or the resource's own).
///
/// To do: try again after `Retry-After`. An operator can raise the limit.
pub(crate) const TOO_MANY_HELD: ErrorCode = ErrorCode::new(503, "too_many_held");

/// The request was held for `holdTimeout`, and the resource is not up yet. The wake continues.
///
/// To do: try again after `Retry-After`. If starts take that long, raise `holdTimeout` and the client's own timeout.
pub(crate) const HELD_TOO_LONG: ErrorCode = ErrorCode::new(503, "held_too_long");

/// The last wake failed, for the reason in the body.
///
/// To do: correct the reason (`autoscaler explain` shows it, too). A request after `Retry-After` wakes the resource again.
pub(crate) const WAKE_FAILED: ErrorCode = ErrorCode::new(503, "wake_failed");

/// No plugin lists the resource any more: it was deleted or opted out while the request was held. The connection is closed.
///
/// To do: nothing, or restore the resource.
pub(crate) const RESOURCE_GONE: ErrorCode = ErrorCode::new(503, "resource_gone");

/// The resource is awake, and none of its endpoints takes requests.
///
/// To do: try again after `Retry-After`. Look at the resource's readiness.
pub(crate) const NOT_READY: ErrorCode = ErrorCode::new(503, "not_ready");

/// The DLX is shutting down, and the request is still held. The connection is closed.
///
/// To do: try again after `Retry-After`: another DLX, or the next one, answers.
pub(crate) const SHUTTING_DOWN: ErrorCode = ErrorCode::new(503, "shutting_down");

/// The client closed the connection while its request was held. No client reads this answer.
///
/// To do: nothing.
pub(crate) const CLIENT_LEFT: ErrorCode = ErrorCode::new(503, "client_left");

/// The request came back to the DLX five times: the address of the resource, a name or a Service, leads to a DLX.
///
/// To do: give the address of the resource itself.
pub(crate) const LOOP_DETECTED: ErrorCode = ErrorCode::new(508, "loop_detected");

// === impl ErrorCode ===

impl ErrorCode {
    const fn new(status: u16, name: &'static str) -> Self {
        Self { status, name }
    }

    /// The status of the answer.
    pub(crate) fn status(self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The code in the body.
    pub(crate) const fn name(self) -> &'static str {
        self.name
    }
}
