//! Responses of the DLX's own: a status, and a JSON body with the reason.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use scaler_types::ResourceId;
use serde::Serialize;

use crate::error_code::{self, ErrorCode};

/// A response of the DLX's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ErrorResponse {
    /// The status.
    pub(crate) status: StatusCode,
    /// The error code in the body.
    pub(crate) error: &'static str,
    /// What happened, why, and what to do.
    pub(crate) reason: String,
    /// The resource, if it is known.
    pub(crate) resource: Option<ResourceId>,
    /// When to try again.
    pub(crate) retry_after: Option<Duration>,
    /// Whether the connection is closed after it.
    pub(crate) close: bool,
}

#[derive(Serialize)]
struct Body<'a> {
    error: &'a str,
    reason: &'a str,
    resource: Option<String>,
}

// === impl ErrorResponse ===

impl ErrorResponse {
    fn new(code: ErrorCode, reason: impl Into<String>) -> Self {
        let (status, error) = (code.status(), code.name());
        Self { status, error, reason: reason.into(), resource: None, retry_after: None, close: false }
    }

    /// 400: the request cannot be taken as it is. Closes the connection: what follows on it cannot be trusted.
    pub(crate) fn malformed(reason: impl Into<String>) -> Self {
        Self { close: true, ..Self::new(error_code::MALFORMED_REQUEST, reason) }
    }

    /// 414: its target is longer than the longest head.
    pub(crate) fn long_target(longest: usize) -> Self {
        let reason = format!("its target is too long: a head may have {longest} bytes");
        Self { close: true, ..Self::new(error_code::TARGET_TOO_LONG, reason) }
    }

    /// 431: its head is too long.
    pub(crate) fn long_head(longest: usize) -> Self {
        Self::large_fields(format!("its head is too long: {longest} bytes are possible"))
    }

    /// 431: its head has too many fields.
    pub(crate) fn many_fields(most: usize) -> Self {
        Self::large_fields(format!("its head has too many fields: {most} are possible"))
    }

    fn large_fields(reason: String) -> Self {
        Self { close: true, ..Self::new(error_code::HEAD_TOO_LARGE, reason) }
    }

    /// 404: no resource is known for it.
    pub(crate) fn unknown_host(reason: impl Into<String>) -> Self {
        Self::new(error_code::UNKNOWN_HOST, reason)
    }

    /// 502: the connection to the resource failed; it may have seen the request.
    pub(crate) fn upstream_error(id: &ResourceId, reason: impl fmt::Display) -> Self {
        let reason = format!("upstream connection error: {reason}");
        Self { resource: Some(id.clone()), ..Self::new(error_code::UPSTREAM_ERROR, reason) }
    }

    /// 408: the client sent no more of the request's body. Closes the connection.
    pub(crate) fn stalled(id: &ResourceId, after: Duration) -> Self {
        let after = scaler_types::duration::short(after);
        let reason = format!("the resource waited {after} for more of the request's body and none came");
        Self { resource: Some(id.clone()), close: true, ..Self::new(error_code::CLIENT_STALLED, reason) }
    }

    /// 503: the resource did not get the request; try again.
    pub(crate) fn unavailable(
        id: &ResourceId,
        code: ErrorCode,
        reason: impl Into<String>,
        retry: Duration,
    ) -> Self {
        Self { resource: Some(id.clone()), retry_after: Some(retry), ..Self::new(code, reason) }
    }

    /// 503: no plugin lists the resource any more. Closes the connection: on a port, the next connection may belong to
    /// another resource.
    pub(crate) fn gone(id: &ResourceId) -> Self {
        let reason = "no plugin lists it any more";
        Self {
            close: true,
            ..Self::unavailable(id, error_code::RESOURCE_GONE, reason, Duration::from_secs(1))
        }
    }

    /// 503: the DLX shuts down while the request is held.
    pub(crate) fn shutting_down(id: &ResourceId) -> Self {
        let reason = "the DLX is shutting down: try again, another DLX or its successor answers";
        Self {
            close: true,
            ..Self::unavailable(id, error_code::SHUTTING_DOWN, reason, Duration::from_secs(1))
        }
    }

    /// 508: the request passed this DLX several times.
    pub(crate) fn loop_detected(id: &ResourceId) -> Self {
        let reason = "the request came back five times: the resource's address points to a DLX; point it to the resource itself";
        Self { resource: Some(id.clone()), ..Self::new(error_code::LOOP_DETECTED, reason) }
    }

    /// As an HTTP response.
    pub(crate) fn response(&self) -> Response<Bytes> {
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
            // Whole seconds; never 0, with which some clients retry at once for ever.
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// As the bytes of an HTTP/1.1 response; without its body if it is `to_head`.
    pub(crate) fn to_bytes(&self, to_head: bool) -> Vec<u8> {
        let response = self.response();
        let status = response.status();
        let mut bytes =
            format!("HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or_default())
                .into_bytes();
        for (name, value) in response.headers() {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        let (date, length) = (httpdate::fmt_http_date(SystemTime::now()), response.body().len());
        bytes.extend_from_slice(format!("date: {date}\r\ncontent-length: {length}\r\n\r\n").as_bytes());
        if !to_head {
            bytes.extend_from_slice(response.body());
        }
        bytes
    }
}

/// A hyper error with its cause.
pub(crate) fn explain(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
