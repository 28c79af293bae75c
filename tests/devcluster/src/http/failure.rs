//! What the API answers when it refuses: `Status` objects, worded as the real server words them.

use std::fmt;

use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::{fields::Conflict, registry::Kind};

/// The outcome of a request's handling.
pub type Result<T> = std::result::Result<T, Failure>;

/// A refusal; becomes a `Status` object.
#[derive(Debug, Clone)]
pub struct Failure {
    /// HTTP status.
    pub code: StatusCode,
    /// Machine-readable reason, `NotFound` for instance. Empty: the answer is plain text, as for an unknown path, or while there is too much to do.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// `details` of the `Status`.
    pub details: Value,
    /// Seconds for the `Retry-After` header.
    pub retry_after: Option<u32>,
}

/// One reason for which an object is invalid.
#[derive(Debug, Clone)]
pub struct Cause {
    /// `FieldValueRequired` for instance.
    pub reason: &'static str,
    /// Path of the field.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

// === impl Cause ===

impl Cause {
    /// A field that must have a value has none.
    pub fn required(field: impl Into<String>, why: &str) -> Self {
        let message =
            if why.is_empty() { "Required value".to_owned() } else { format!("Required value: {why}") };
        Self { reason: "FieldValueRequired", field: field.into(), message }
    }

    /// A field's value cannot be.
    pub fn invalid(field: impl Into<String>, value: &Value, why: &str) -> Self {
        Self {
            reason: "FieldValueInvalid",
            field: field.into(),
            message: format!("Invalid value: {value}: {why}"),
        }
    }

    /// A field must not be set, or not to this, here.
    pub fn forbidden(field: impl Into<String>, why: &str) -> Self {
        Self { reason: "FieldValueForbidden", field: field.into(), message: format!("Forbidden: {why}") }
    }

    /// A field's value is none of those it can have.
    pub fn unsupported(field: impl Into<String>, value: &Value, known: &[&str]) -> Self {
        let known = known.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>().join(", ");
        Self {
            reason: "FieldValueNotSupported",
            field: field.into(),
            message: format!("Unsupported value: {value}: supported values: {known}"),
        }
    }

    /// A list is too long.
    pub fn too_many(field: impl Into<String>, count: usize, most: usize) -> Self {
        Self {
            reason: "FieldValueTooMany",
            field: field.into(),
            message: format!("Too many: {count}: must have at most {most} items"),
        }
    }

    /// Two entries of a list are the same where they must differ.
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self {
            reason: "FieldValueDuplicate",
            field: field.into(),
            message: format!("Duplicate value: {value}"),
        }
    }
}

// === impl Failure ===

impl Failure {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Value::Null, retry_after: None }
    }

    fn about(mut self, kind: &Kind, name: &str) -> Self {
        let mut details = Map::new();
        for (field, value) in [("name", name), ("group", &kind.group), ("kind", &kind.plural)] {
            if !value.is_empty() {
                details.insert(field.to_owned(), value.into());
            }
        }
        self.details = Value::Object(details);
        self
    }

    /// No such object.
    pub fn not_found(kind: &Kind, name: &str) -> Self {
        let message = format!("{} {name:?} not found", kind.resource());
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about(kind, name)
    }

    /// The object is not the one that a deletion meant. The real server names the kind here, and not the resource.
    pub fn unmet(kind: &Kind, name: &str, why: &str) -> Self {
        Self::conflict(&Kind::named(&kind.group, "", &kind.kind), name, why)
    }

    /// Nobody serves this path.
    pub fn no_such_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, "", "404 page not found\n")
    }

    /// A group version that is built in has no such resource, or the resource no such subresource. Others' paths are
    /// [unknown](Self::no_such_path).
    pub fn no_such_resource() -> Self {
        let message = "the server could not find the requested resource";
        let mut failure = Self::new(StatusCode::NOT_FOUND, "NotFound", message);
        failure.details = json!({});
        failure
    }

    /// A create found one of that name.
    pub fn already_exists(kind: &Kind, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", kind.resource());
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(kind, name)
    }

    /// The object is not the one, or not the version, that the writer meant.
    pub fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", kind.resource());
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(kind, name)
    }

    /// The writer's resourceVersion is not the object's.
    pub fn modified(kind: &Kind, name: &str) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(kind, name, why)
    }

    /// An apply would change what others own.
    pub fn apply_conflicts(conflicts: &[Conflict]) -> Self {
        let messages: Vec<String> =
            conflicts.iter().map(|one| format!("conflict with {}: {}", one.owner, one.field)).collect();
        let plural = if messages.len() == 1 { "" } else { "s" };
        let message =
            format!("Apply failed with {} conflict{plural}: {}", messages.len(), messages.join("\n"));
        let mut failure = Self::new(StatusCode::CONFLICT, "Conflict", message);
        let causes = conflicts.iter().map(|one| {
            let message = format!("conflict with {}", one.owner);
            json!({"reason": "FieldManagerConflict", "message": message, "field": one.field})
        });
        failure.details = json!({"causes": causes.collect::<Vec<_>>()});
        failure
    }

    /// The object breaks a rule; the message lists all that are broken.
    pub fn invalid(kind: &Kind, name: &str, causes: &[Cause]) -> Self {
        let messages: Vec<String> =
            causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
        let message =
            if messages.len() == 1 { messages.concat() } else { format!("[{}]", messages.join(", ")) };
        let of =
            if kind.group.is_empty() { kind.kind.clone() } else { format!("{}.{}", kind.kind, kind.group) };
        let mut failure = Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Invalid",
            format!("{of} {name:?} is invalid: {message}"),
        );
        let causes: Vec<Value> = causes
            .iter()
            .map(|cause| json!({"reason": cause.reason, "message": cause.message, "field": cause.field}))
            .collect();
        failure.details = json!({"name": name, "group": kind.group, "kind": kind.kind, "causes": causes});
        failure
    }

    /// A JSON patch that does not apply, by a failed `test` for instance. The real server says no more than this either.
    pub fn patch_failed() -> Self {
        let message = "the server rejected our request due to an error in our request";
        let mut failure = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message);
        failure.details = json!({});
        failure
    }

    /// A patch after which the object is not of its type.
    pub fn patched(kind: &Kind, name: &str, why: &Self) -> Self {
        Self::invalid(kind, name, &[Cause::invalid("patch", &Value::from(why.message.as_str()), "")])
    }

    /// The user may not do this.
    pub fn forbidden(kind: &Kind, name: &str, why: &str) -> Self {
        let named = if name.is_empty() { String::new() } else { format!(" {name:?}") };
        let message = format!("{}{named} is forbidden: {why}", kind.resource());
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).about(kind, name)
    }

    /// The user may not ask for this path, which is no resource.
    pub fn forbidden_path(user: &str, verb: &str, path: &str) -> Self {
        let message = format!("forbidden: User {user:?} cannot {verb} path {path:?}");
        let mut failure = Self::new(StatusCode::FORBIDDEN, "Forbidden", message);
        failure.details = json!({});
        failure
    }

    /// Nobody knows the token.
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    /// What was sent cannot be understood.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// The resource has no such verb.
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        let mut failure = Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message);
        failure.details = json!({});
        failure
    }

    /// The body is of a kind that is not read here.
    pub fn unsupported_media_type(known: &str) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {known}"
        );
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
    }

    /// More was sent than is taken.
    pub fn too_large_entity(why: &str) -> Self {
        let message = format!("Request entity too large: {why}");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
    }

    /// The client takes none of the formats that are spoken here.
    pub fn not_acceptable() -> Self {
        let message = "only the following media types are accepted: application/json";
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    /// History does not go back as far.
    pub fn expired(asked: u64, oldest: u64) -> Self {
        Self::new(StatusCode::GONE, "Expired", format!("too old resource version: {asked} ({oldest})"))
    }

    /// A list's next page was asked for too late.
    pub fn expired_continue() -> Self {
        let message = "The provided continue parameter is too old to display a consistent list result. You can start \
                       a new list without the continue parameter.";
        Self::new(StatusCode::GONE, "Expired", message)
    }

    /// A list of a version that has not been reached.
    pub fn too_large(asked: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        let mut failure = Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message);
        failure.details = json!({
            "retryAfterSeconds": 1,
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
        });
        failure.retry_after = Some(1);
        failure
    }

    /// The server has more to do than it can: it says so in plain text.
    pub fn too_many_requests(seconds: u32) -> Self {
        let message = "Too many requests, please try again later.\n";
        let mut failure = Self::new(StatusCode::TOO_MANY_REQUESTS, "", message);
        failure.retry_after = Some(seconds);
        failure
    }

    /// Something is wrong inside.
    pub fn internal(why: &str) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalError",
            format!("Internal error occurred: {why}"),
        )
    }

    /// Not now.
    pub fn unavailable() -> Self {
        let message = "the server is currently unable to handle the request";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message)
    }

    /// A conflict that a test has ordered, about no object in particular.
    pub fn ordered_conflict() -> Self {
        let message = "Operation cannot be fulfilled: the object has been modified; please apply your changes to the \
                       latest version and try again";
        Self::new(StatusCode::CONFLICT, "Conflict", message)
    }

    /// The `Status` object.
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code.as_u16(),
        });
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

impl std::error::Error for Failure {}
