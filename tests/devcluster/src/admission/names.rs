//! Names, labels and annotations.

use serde_json::Value;

use super::validate::port_number;
use crate::{http::failure::Cause, registry::Kind, store::text};

/// What a DNS label is, in the real server's words.
pub(super) const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an \
                                alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
pub(super) const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an \
                         alphanumeric character (e.g. 'example.com', regex used for validation is \
                         '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an \
                        alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                           alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is \
                           '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
pub(super) const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character \
                         (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
/// All annotations of an object together.
const ANNOTATIONS_LIMIT: usize = 256 * 1024;

pub(super) fn metadata(kind: &Kind, value: &Value, causes: &mut Vec<Cause>) {
    let metadata = &value["metadata"];
    let name = text(&metadata["name"]);
    let wrong = match (kind.group.as_str(), kind.plural.as_str()) {
        ("", "namespaces") => (!is_label(name)).then_some(LABEL),
        ("", "services") => {
            (!is_label(name) || name.starts_with(|first: char| first.is_ascii_digit())).then_some(DNS_1035)
        }
        // A role's name is a part of a path, no more.
        ("rbac.authorization.k8s.io", _) => {
            (name.contains(['/', '%']) || matches!(name, "." | "..")).then_some("may not contain '/'")
        }
        _ => (!is_subdomain(name)).then_some(SUBDOMAIN),
    };
    if let Some(why) = wrong {
        causes.push(Cause::invalid("metadata.name", &metadata["name"], why));
    }
    labels(&metadata["labels"], "metadata.labels", causes);
    owners(&metadata["ownerReferences"], causes);
    let mut size = 0;
    for (key, annotation) in metadata["annotations"].as_object().into_iter().flatten() {
        if !is_qualified(&key.to_lowercase()) {
            causes.push(Cause::invalid("metadata.annotations", &Value::from(key.as_str()), QUALIFIED));
        }
        size += key.len() + text(annotation).len();
    }
    if size > ANNOTATIONS_LIMIT {
        let field = "metadata.annotations".to_owned();
        let message = format!("Too long: may not be more than {ANNOTATIONS_LIMIT} bytes");
        causes.push(Cause { reason: "FieldValueTooLong", field, message });
    }
}

/// What is being deleted gets no finalizers any more.
pub(super) fn finalizers(value: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let all = |value: &Value| value["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    let held = all(old);
    let new: Vec<Value> = all(value).into_iter().filter(|one| !held.contains(one)).collect();
    if !old["metadata"]["deletionTimestamp"].is_null() && !new.is_empty() {
        let why = "no new finalizers can be added if the object is being deleted, found new finalizers";
        causes.push(Cause::forbidden("metadata.finalizers", &format!("{why} {}", Value::from(new))));
    }
}

/// Why a key of a ConfigMap cannot be a file's name.
pub(super) fn no_file(key: &str) -> Option<&'static str> {
    let letters = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    match key {
        _ if key.len() > 253 => Some("must be no more than 253 characters"),
        _ if key.is_empty() || !key.chars().all(letters) => {
            Some("a valid config key must consist of alphanumeric characters, '-', '_' or '.'")
        }
        "." => Some("must not be '.'"),
        ".." => Some("must not be '..'"),
        _ if key.starts_with("..") => Some("must not start with '..'"),
        _ => None,
    }
}

/// Labels, or what selects by them.
pub(super) fn labels(labels: &Value, field: &str, causes: &mut Vec<Cause>) {
    for (key, label) in labels.as_object().into_iter().flatten() {
        if !is_qualified(key) {
            causes.push(Cause::invalid(field, &Value::from(key.as_str()), QUALIFIED));
        }
        let label_text = text(label);
        if label_text.len() > 63 {
            causes.push(Cause::invalid(field, label, "must be no more than 63 bytes"));
        } else if !label_text.is_empty() && !is_word(label_text) {
            causes.push(Cause::invalid(field, label, LABEL_VALUE));
        }
    }
}

fn owners(owners: &Value, causes: &mut Vec<Cause>) {
    const FIELD: &str = "metadata.ownerReferences";
    let owners = owners.as_array().map(Vec::as_slice).unwrap_or_default();
    for owner in owners {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if text(&owner[field]).is_empty() {
                let why =
                    if field == "apiVersion" { "version must not be empty" } else { "must not be empty" };
                causes.push(Cause::invalid(format!("{FIELD}.{field}"), &owner[field], why));
            }
        }
    }
    if owners.iter().filter(|owner| owner["controller"] == true).count() > 1 {
        let why = "Only one reference can have Controller set to true";
        causes.push(Cause::invalid(FIELD, &Value::from(owners), why));
    }
}

/// Whether it is a DNS label.
pub(super) fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 63
        && text.bytes().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

pub(super) fn is_subdomain(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(part)
}

/// A label's value, or the name in a key.
fn is_word(text: &str) -> bool {
    let ends = |letter: Option<char>| letter.is_some_and(|letter| letter.is_ascii_alphanumeric());
    text.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(letter))
        && ends(text.chars().next())
        && ends(text.chars().next_back())
}

/// The pods' port behind a Service's: a number, or a name of a container's port.
pub(super) fn target_port(port: &Value, field: &str, causes: &mut Vec<Cause>) {
    let Some(name) = port.as_str() else { return port_number(port, field, causes) };
    let letters = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'-';
    let wrong = if name.len() > 15 {
        "must be no more than 15 characters"
    } else if !name.bytes().all(letters) {
        "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"
    } else if !name.bytes().any(|letter| letter.is_ascii_lowercase()) {
        "must contain at least one letter (a-z)"
    } else if name.contains("--") {
        "must not contain consecutive hyphens"
    } else if name.starts_with('-') || name.ends_with('-') {
        "must not begin or end with a hyphen"
    } else {
        return;
    };
    causes.push(Cause::invalid(field, port, wrong));
}

/// What is spoken on a port: a name as a label's key is one.
pub(super) fn app_protocol(protocol: &Value, field: &str, causes: &mut Vec<Cause>) {
    if protocol.as_str().is_some_and(|name| !is_qualified(name)) {
        causes.push(Cause::invalid(field, protocol, QUALIFIED));
    }
}

/// `example.com/name`, or `name`.
pub(super) fn is_qualified(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && name.len() <= 63 && is_word(name),
        None => key.len() <= 63 && is_word(key),
    }
}
