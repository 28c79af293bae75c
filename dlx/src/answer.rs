//! Answers of the DLX's own: a status, and a JSON body that says why.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use scaler_types::ResourceId;
use serde::Serialize;

/// A request that is answered here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status.
    pub status: StatusCode,
    /// What happened, in a few fixed words.
    pub error: &'static str,
    /// Why, for people.
    pub reason: String,
    /// Which resource, where one is known.
    pub resource: Option<ResourceId>,
    /// When another try makes sense.
    pub retry_after: Option<Duration>,
    /// Whether the connection is to be closed after it.
    pub close: bool,
}

#[derive(Serialize)]
struct Body<'a> {
    error: &'a str,
    reason: &'a str,
    resource: Option<String>,
}

// === impl Refusal ===

impl Refusal {
    fn new(status: StatusCode, error: &'static str, reason: impl Into<String>) -> Self {
        Self { status, error, reason: reason.into(), resource: None, retry_after: None, close: false }
    }

    /// 400: the request cannot be taken as it is. Closes the connection: what follows on it cannot be trusted.
    pub fn malformed(reason: impl Into<String>) -> Self {
        Self { close: true, ..Self::new(StatusCode::BAD_REQUEST, "malformed request", reason) }
    }

    /// 414: its target is longer than the longest head.
    pub fn long_target(longest: usize) -> Self {
        let reason = format!("its target is too long: a head may have {longest} bytes");
        Self { close: true, ..Self::new(StatusCode::URI_TOO_LONG, "target too long", reason) }
    }

    /// 431: its head is too long.
    pub fn long_head(longest: usize) -> Self {
        Self::large_fields(format!("its head is too long: {longest} bytes are possible"))
    }

    /// 431: its head has too many fields.
    pub fn many_fields(most: usize) -> Self {
        Self::large_fields(format!("its head has too many fields: {most} are possible"))
    }

    fn large_fields(reason: String) -> Self {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        Self { close: true, ..Self::new(status, "head too large", reason) }
    }

    /// 404: nobody's.
    pub fn nobodys(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "no such resource", reason)
    }

    /// 502: the resource broke the exchange; it may have seen the request.
    pub fn broken(id: &ResourceId, reason: impl Into<String>) -> Self {
        Self {
            resource: Some(id.clone()),
            ..Self::new(StatusCode::BAD_GATEWAY, "the resource broke the exchange", reason)
        }
    }

    /// 408: the client sent no more of the request's body. Closes the connection.
    pub fn stalled(id: &ResourceId, after: Duration) -> Self {
        let after = scaler_types::duration::short(after);
        let reason = format!("the resource waited {after} for more of the request's body and none came");
        Self {
            resource: Some(id.clone()),
            close: true,
            ..Self::new(StatusCode::REQUEST_TIMEOUT, "the client stalled", reason)
        }
    }

    /// 503: the resource never saw it; try again.
    pub fn unavailable(
        id: &ResourceId,
        error: &'static str,
        reason: impl Into<String>,
        retry: Duration,
    ) -> Self {
        Self {
            resource: Some(id.clone()),
            retry_after: Some(retry),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, error, reason)
        }
    }

    /// 503: the resource went away. Closes the connection: it may have come in on the resource's own port, and the next one
    /// on that is for whoever has it then.
    pub fn gone(id: &ResourceId) -> Self {
        let reason = "no plugin lists it any more";
        Self { close: true, ..Self::unavailable(id, "the resource is gone", reason, Duration::from_secs(1)) }
    }

    /// 503: this DLX ends, and the request was still held.
    pub fn draining(id: &ResourceId) -> Self {
        let reason = "this DLX ends; another one, or its successor, takes the next try";
        Self { close: true, ..Self::unavailable(id, "draining", reason, Duration::from_secs(1)) }
    }

    /// 508: it comes back again and again.
    pub fn looped(id: &ResourceId) -> Self {
        let reason = "the request came back five times: the resource's address leads to a DLX; have it lead to the resource itself";
        Self { resource: Some(id.clone()), ..Self::new(StatusCode::LOOP_DETECTED, "loop", reason) }
    }

    /// As an HTTP response.
    pub fn response(&self) -> Response<Bytes> {
        let body = Body {
            error: self.error,
            reason: &self.reason,
            resource: self.resource.as_ref().map(ToString::to_string),
        };
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(after) = self.retry_after {
            // Whole seconds; never 0, which some clients take for "at once, for ever".
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// A hyper error with its cause.
pub fn explain(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
