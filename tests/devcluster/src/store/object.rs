//! One version of one object.

use std::sync::OnceLock;

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Map, Value};

use crate::registry::Kind;

/// One version of one object, never changed. Holds neither `kind` nor `apiVersion`: these depend on the version of the API it is read by.
#[derive(Debug)]
pub struct Object {
    /// The object; a JSON map with `metadata`.
    pub value: Value,
    /// Its resourceVersion as a number.
    pub revision: u64,
    /// Serialized once, however many read it.
    text: OnceLock<Bytes>,
}

/// Namespace (empty: cluster-wide) and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Key {
    /// Namespace; empty for what belongs to none.
    pub namespace: String,
    /// Name.
    pub name: String,
}

// === impl Key ===

impl Key {
    /// The key of a name in a namespace.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

// === impl Object ===

impl Object {
    pub(super) fn new(mut value: Value, revision: u64) -> Self {
        value["metadata"]["resourceVersion"] = Value::from(revision.to_string());
        Self { value, revision, text: OnceLock::new() }
    }

    /// One that is shown and not stored: the outcome of a dry run.
    pub fn unsaved(mut value: Value) -> Self {
        if let Some(metadata) = value["metadata"].as_object_mut() {
            metadata.remove("resourceVersion");
        }
        Self { value, revision: 0, text: OnceLock::new() }
    }

    /// Its `metadata`.
    pub fn metadata(&self) -> &Value {
        &self.value["metadata"]
    }

    /// Its uid.
    pub fn uid(&self) -> &str {
        text(&self.value["metadata"]["uid"])
    }

    /// Where it is.
    pub fn key(&self) -> Key {
        let metadata = self.metadata();
        Key::new(text(&metadata["namespace"]), text(&metadata["name"]))
    }

    /// As `kind` serves it, with `kind` and `apiVersion`.
    pub fn served(&self, kind: &Kind) -> Value {
        let mut value = kind.convert_out(&self.value);
        value["kind"] = Value::from(kind.kind.as_str());
        value["apiVersion"] = Value::from(kind.api_version());
        value
    }

    /// [`Object::served`] as text, appended to `out`.
    pub fn write(&self, kind: &Kind, out: &mut BytesMut) {
        out.put_slice(kind.head().as_bytes());
        self.write_rest(kind, out);
    }

    /// As an entry of a list: built-in kinds leave `kind` and `apiVersion` away there.
    pub fn write_item(&self, kind: &Kind, out: &mut BytesMut) {
        if kind.custom {
            return self.write(kind, out);
        }
        out.put_u8(b'{');
        self.write_rest(kind, out);
    }

    /// The text after its opening brace.
    fn write_rest(&self, kind: &Kind, out: &mut BytesMut) {
        if kind.converts() {
            out.put_slice(&kind.convert_out(&self.value).to_string().as_bytes()[1..]);
        } else {
            out.put_slice(&self.text.get_or_init(|| Bytes::from(self.value.to_string()))[1..]);
        }
    }

    /// [`Object::served`] as text.
    pub fn text(&self, kind: &Kind) -> Bytes {
        let mut out = BytesMut::new();
        self.write(kind, &mut out);
        out.freeze()
    }

    /// The version with another revision: what a deletion shows to those who watch.
    pub fn at(&self, revision: u64) -> Self {
        Self::new(self.value.clone(), revision)
    }
}

/// The string in `value`, empty if it is none.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The map in `value`, made if there is none.
pub fn map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("it was just made one")
}
