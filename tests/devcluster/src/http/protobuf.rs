//! Protobuf bodies, as kubectl sends them since 1.32 for what it makes from its own flags (`kubectl create deployment`), and those kinds only.
//! Numbers and names of fields are those of the `generated.proto` files of k8s.io/api and k8s.io/apimachinery.

use serde_json::{Map, Value};

use super::failure::{Failure, Result};

/// The first bytes of each body.
const MAGIC: &[u8] = b"k8s\0";

/// A message's fields; a field that is not here must be empty.
type Message = &'static [(u64, &'static str, Type)];

#[derive(Debug, Clone, Copy)]
enum Type {
    Text,
    /// Base64 in JSON.
    Bytes,
    /// Also for truths that may be unset.
    Number,
    Truth,
    Object(Message),
    Texts,
    Objects(Message),
    /// From text to text, or to bytes.
    TextMap,
    BytesMap,
    /// Written by the server only.
    Ignored,
}

use Type::{BytesMap, Ignored, Number, Object, Objects, Text, TextMap, Texts, Truth};

const METADATA: Message = &[
    (1, "name", Text),
    (2, "generateName", Text),
    (3, "namespace", Text),
    (8, "creationTimestamp", Ignored),
    (11, "labels", TextMap),
    (12, "annotations", TextMap),
    (14, "finalizers", Texts),
];
const LABEL_SELECTOR: Message = &[(1, "matchLabels", TextMap)];
const CONTAINER_PORT: Message = &[(1, "name", Text), (3, "containerPort", Number), (4, "protocol", Text)];
const CONTAINER: Message = &[
    (1, "name", Text),
    (2, "image", Text),
    (3, "command", Texts),
    (4, "args", Texts),
    (5, "workingDir", Text),
    (6, "ports", Objects(CONTAINER_PORT)),
    (7, "env", Objects(&[(1, "name", Text), (2, "value", Text)])),
    (14, "imagePullPolicy", Text),
];
const POD_SPEC: Message = &[
    (2, "containers", Objects(CONTAINER)),
    (3, "restartPolicy", Text),
    (4, "terminationGracePeriodSeconds", Number),
    (6, "dnsPolicy", Text),
    (7, "nodeSelector", TextMap),
    (8, "serviceAccountName", Text),
    (19, "schedulerName", Text),
];
const DEPLOYMENT_SPEC: Message = &[
    (1, "replicas", Number),
    (2, "selector", Object(LABEL_SELECTOR)),
    (3, "template", Object(&[(1, "metadata", Object(METADATA)), (2, "spec", Object(POD_SPEC))])),
    (4, "strategy", Object(&[(1, "type", Text)])),
    (6, "revisionHistoryLimit", Number),
    (9, "progressDeadlineSeconds", Number),
];
const RULE: Message = &[
    (1, "verbs", Texts),
    (2, "apiGroups", Texts),
    (3, "resources", Texts),
    (4, "resourceNames", Texts),
    (5, "nonResourceURLs", Texts),
];
const SUBJECT: Message =
    &[(1, "kind", Text), (2, "apiGroup", Text), (3, "name", Text), (4, "namespace", Text)];
const BINDING: Message = &[
    (1, "metadata", Object(METADATA)),
    (2, "subjects", Objects(SUBJECT)),
    (3, "roleRef", Object(&[(1, "apiGroup", Text), (2, "kind", Text), (3, "name", Text)])),
];
const RESOURCE_METRIC: Message =
    &[(1, "name", Text), (2, "target", Object(&[(1, "type", Text), (4, "averageUtilization", Number)]))];
const AUTOSCALER_SPEC: Message = &[
    (1, "scaleTargetRef", Object(&[(1, "kind", Text), (2, "name", Text), (3, "apiVersion", Text)])),
    (2, "minReplicas", Number),
    (3, "maxReplicas", Number),
    (4, "metrics", Objects(&[(1, "type", Text), (4, "resource", Object(RESOURCE_METRIC))])),
];
const RESOURCE_ATTRIBUTES: Message = &[
    (1, "namespace", Text),
    (2, "verb", Text),
    (3, "group", Text),
    (4, "version", Text),
    (5, "resource", Text),
    (6, "subresource", Text),
    (7, "name", Text),
];
const ACCESS_REVIEW: Message = &[
    (1, "resourceAttributes", Object(RESOURCE_ATTRIBUTES)),
    (2, "nonResourceAttributes", Object(&[(1, "path", Text), (2, "verb", Text)])),
];

/// The kinds that are read.
const KINDS: &[(&str, Message)] = &[
    ("Namespace", &[(1, "metadata", Object(METADATA)), (2, "spec", Ignored), (3, "status", Ignored)]),
    (
        "ConfigMap",
        &[
            (1, "metadata", Object(METADATA)),
            (2, "data", TextMap),
            (3, "binaryData", BytesMap),
            (4, "immutable", Truth),
        ],
    ),
    (
        "Secret",
        &[
            (1, "metadata", Object(METADATA)),
            (2, "data", BytesMap),
            (3, "type", Text),
            (4, "stringData", TextMap),
        ],
    ),
    ("ServiceAccount", &[(1, "metadata", Object(METADATA))]),
    (
        "Deployment",
        &[(1, "metadata", Object(METADATA)), (2, "spec", Object(DEPLOYMENT_SPEC)), (3, "status", Ignored)],
    ),
    (
        "HorizontalPodAutoscaler",
        &[(1, "metadata", Object(METADATA)), (2, "spec", Object(AUTOSCALER_SPEC)), (3, "status", Ignored)],
    ),
    ("Role", &[(1, "metadata", Object(METADATA)), (2, "rules", Objects(RULE))]),
    ("ClusterRole", &[(1, "metadata", Object(METADATA)), (2, "rules", Objects(RULE))]),
    ("RoleBinding", BINDING),
    ("ClusterRoleBinding", BINDING),
    (
        "TokenRequest",
        &[
            (1, "metadata", Object(METADATA)),
            (2, "spec", Object(&[(1, "audiences", Texts), (4, "expirationSeconds", Number)])),
            (3, "status", Ignored),
        ],
    ),
    (
        "SelfSubjectAccessReview",
        &[(1, "metadata", Object(METADATA)), (2, "spec", Object(ACCESS_REVIEW)), (3, "status", Ignored)],
    ),
];

/// A field's number and its payload.
enum Payload<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// What is left of a message.
struct Reader<'a>(&'a [u8]);

/// The object in a body.
///
/// # Errors
///
/// It is damaged, of a kind that is not read here, or has a field that is not.
pub fn decode(body: &[u8]) -> Result<Value> {
    let damaged = || Failure::bad_request("the body of the request is no Kubernetes protobuf");
    let mut envelope = Reader(body.strip_prefix(MAGIC).ok_or_else(damaged)?);
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    while let Some((number, payload)) = envelope.next().ok_or_else(damaged)? {
        match (number, payload) {
            (1, Payload::Bytes(bytes)) => {
                let mut types = Reader(bytes);
                while let Some((number, payload)) = types.next().ok_or_else(damaged)? {
                    match (number, payload) {
                        (1, Payload::Bytes(text)) => api_version = String::from_utf8_lossy(text).into_owned(),
                        (2, Payload::Bytes(text)) => kind = String::from_utf8_lossy(text).into_owned(),
                        _ => {}
                    }
                }
            }
            (2, Payload::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let known = KINDS.iter().find(|(known, _)| *known == kind).ok_or_else(unread)?;
    let mut object = message(raw, known.1)?;
    object.insert("kind".into(), kind.into());
    object.insert("apiVersion".into(), api_version.into());
    Ok(Value::Object(object))
}

fn unread() -> Failure {
    Failure::unsupported_media_type("application/json, application/yaml")
}

fn message(bytes: &[u8], fields: Message) -> Result<Map<String, Value>> {
    let damaged = || Failure::bad_request("the body of the request is damaged protobuf");
    let mut object = Map::new();
    let mut reader = Reader(bytes);
    while let Some((number, payload)) = reader.next().ok_or_else(damaged)? {
        let empty = match payload {
            Payload::Number(value) => value == 0,
            Payload::Bytes(bytes) => bytes.is_empty(),
        };
        let Some((_, name, of)) = fields.iter().find(|(known, ..)| *known == number) else {
            // What has no value is no loss: some fields are always there.
            if empty || matches!(payload, Payload::Bytes(bytes) if is_empty(bytes)) {
                continue;
            }
            tracing::debug!(number, "a field of a protobuf body is not known here");
            return Err(unread());
        };
        let text = |bytes: &[u8]| Value::from(String::from_utf8_lossy(bytes).into_owned());
        let base64 = |bytes: &[u8]| {
            serde_json::to_value(k8s_openapi::ByteString(bytes.to_vec())).map_err(|_| damaged())
        };
        match (of, payload) {
            (Type::Ignored, _) => {}
            (Type::Text, Payload::Bytes([])) => {}
            (Type::Text, Payload::Bytes(bytes)) => drop(object.insert((*name).into(), text(bytes))),
            (Type::Bytes, Payload::Bytes(bytes)) => drop(object.insert((*name).into(), base64(bytes)?)),
            (Type::Number, Payload::Number(value)) => {
                drop(object.insert((*name).into(), value.cast_signed().into()))
            }
            (Type::Truth, Payload::Number(value)) => drop(object.insert((*name).into(), (value != 0).into())),
            (Type::Object(fields), Payload::Bytes(bytes)) => {
                object.insert((*name).into(), Value::Object(message(bytes, fields)?));
            }
            (Type::Texts, Payload::Bytes(bytes)) => push(&mut object, name, text(bytes)),
            (Type::Objects(fields), Payload::Bytes(bytes)) => {
                let one = Value::Object(message(bytes, fields)?);
                push(&mut object, name, one);
            }
            (Type::TextMap | Type::BytesMap, Payload::Bytes(bytes)) => {
                let of = if matches!(of, Type::TextMap) { Text } else { Type::Bytes };
                let mut entry = Map::new();
                let mut parts = Reader(bytes);
                while let Some((number, payload)) = parts.next().ok_or_else(damaged)? {
                    match (number, payload) {
                        (1, Payload::Bytes(bytes)) => drop(entry.insert("key".into(), text(bytes))),
                        (2, Payload::Bytes(bytes)) if matches!(of, Text) => {
                            entry.insert("value".into(), text(bytes));
                        }
                        (2, Payload::Bytes(bytes)) => drop(entry.insert("value".into(), base64(bytes)?)),
                        _ => return Err(damaged()),
                    }
                }
                let key = entry.remove("key").unwrap_or_default();
                let all = object.entry(*name).or_insert_with(|| Value::Object(Map::new()));
                all[key.as_str().unwrap_or_default()] = entry.remove("value").unwrap_or_else(|| "".into());
            }
            _ => return Err(damaged()),
        }
    }
    Ok(object)
}

fn push(object: &mut Map<String, Value>, name: &str, one: Value) {
    let all = object.entry(name).or_insert_with(|| Value::Array(Vec::new()));
    if let Some(all) = all.as_array_mut() {
        all.push(one);
    }
}

/// Whether a message has nothing but empty fields.
fn is_empty(bytes: &[u8]) -> bool {
    let mut reader = Reader(bytes);
    loop {
        match reader.next() {
            None => return false,
            Some(None) => return true,
            Some(Some((_, Payload::Number(0)))) => {}
            Some(Some((_, Payload::Bytes(bytes)))) if bytes.is_empty() || is_empty(bytes) => {}
            Some(Some(_)) => return false,
        }
    }
}

// === impl Reader ===

impl<'a> Reader<'a> {
    /// The next field; the outer `None`: the bytes are damaged.
    fn next(&mut self) -> Option<Option<(u64, Payload<'a>)>> {
        if self.0.is_empty() {
            return Some(None);
        }
        let tag = self.varint()?;
        let payload = match tag & 7 {
            0 => Payload::Number(self.varint()?),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                let (bytes, rest) = self.0.split_at_checked(length)?;
                self.0 = rest;
                Payload::Bytes(bytes)
            }
            _ => return None,
        };
        Some(Some((tag >> 3, payload)))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A field with bytes.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap()];
        out.extend(bytes);
        out
    }

    fn body(kind: &str, raw: &[u8]) -> Vec<u8> {
        let types = [field(1, b"v1"), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &types), field(2, raw)].concat()
    }

    #[test]
    fn a_known_kind_is_read_and_what_would_be_lost_is_refused() {
        let metadata = field(1, &[field(1, b"one"), field(5, b"")].concat());
        let entry = field(2, &[field(1, b"a"), field(2, b"b")].concat());
        let read = decode(&body("ConfigMap", &[metadata.clone(), entry].concat())).unwrap();
        let wanted =
            json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "one"}, "data": {"a": "b"}});
        assert_eq!(read, wanted);
        assert!(decode(&body("Unknown", &metadata)).is_err());
        assert!(decode(&body("ConfigMap", &[metadata, field(9, b"x")].concat())).is_err());
        assert!(decode(&body("ConfigMap", &[8])).is_err());
        assert!(decode(b"no magic").is_err());
    }
}
