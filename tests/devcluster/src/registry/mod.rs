//! Which kinds of objects there are: those built in, and those that CustomResourceDefinitions bring.

mod builtin;
mod convert;
mod custom;

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
};

use serde_json::{Value, json};

pub use self::{builtin::CRDS, custom::definition_status};
use crate::store::TableId;

/// One version of one resource.
#[derive(Debug, Clone, Default)]
pub struct Kind {
    /// API group, empty for the core one.
    pub group: String,
    /// Version, `v1` for instance.
    pub version: String,
    /// Plural name: the resource.
    pub plural: String,
    /// Singular name.
    pub singular: String,
    /// Kind, `Deployment` for instance.
    pub kind: String,
    /// Kind of its lists.
    pub list: String,
    /// What kubectl takes for it.
    pub short: Vec<String>,
    /// Groups of resources it belongs to, `all` for instance.
    pub categories: Vec<String>,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
    /// Whether it has the status subresource.
    pub status: bool,
    /// Where the scale subresource finds its values, if there is one.
    pub scale: Option<ScalePaths>,
    /// Whether a CustomResourceDefinition brought it.
    pub custom: bool,
    /// Whether `metadata.generation` counts changes.
    pub generation: bool,
    /// Whether a PUT may create.
    pub create_on_update: bool,
    /// Whether an update may leave the resourceVersion away.
    pub unconditional_update: bool,
    /// How its objects differ from those in the store.
    conversion: Conversion,
    /// The start of each of its objects' texts.
    head: String,
}

/// Paths of the scale subresource, as JSON pointers.
#[derive(Debug, Clone, Default)]
pub struct ScalePaths {
    /// Replicas wanted.
    pub spec: String,
    /// Replicas there are.
    pub status: String,
    /// The label selector: an object or a string.
    pub selector: Option<String>,
}

/// How a version's objects differ from those in the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Conversion {
    #[default]
    None,
    /// `events.k8s.io/v1` names an event's fields otherwise than the core group.
    Events,
    /// `autoscaling/v1` has one metric only.
    AutoscalingV1,
}

/// All kinds.
#[derive(Debug)]
pub struct Registry(RwLock<Arc<Kinds>>);

/// All kinds at one time.
#[derive(Debug, Default, Clone)]
pub struct Kinds {
    /// In the order in which discovery lists them.
    pub all: Vec<Arc<Kind>>,
    by_path: HashMap<(String, String, String), Arc<Kind>>,
}

// === impl Kind ===

impl Kind {
    /// Something that messages name and that is not served.
    pub fn named(group: &str, kind: &str, plural: &str) -> Self {
        Self { group: group.to_owned(), kind: kind.to_owned(), plural: plural.to_owned(), ..Self::default() }
    }

    /// `group/version`, or the version alone for the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `deployments.apps`, as messages name it.
    pub fn resource(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// Where its objects are. Events of both groups are the same objects.
    pub fn table(&self) -> TableId {
        let group = if self.conversion == Conversion::Events { "" } else { &self.group };
        TableId::new(group, &self.plural)
    }

    /// The start of each object's text, up to what follows `kind` and `apiVersion`.
    pub fn head(&self) -> &str {
        &self.head
    }

    /// Whether this is `plural` of `group`, in any version.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }

    /// Whether objects differ from those in the store.
    pub fn converts(&self) -> bool {
        self.conversion != Conversion::None
    }

    /// From the store to this version.
    pub fn convert_out(&self, value: &Value) -> Value {
        convert::out(self.conversion, value)
    }

    /// From this version to the store.
    pub fn convert_in(&self, value: Value) -> Value {
        convert::into(self.conversion, value)
    }

    fn finished(mut self) -> Self {
        self.head = format!("{{\"kind\":{},\"apiVersion\":{},", json!(self.kind), json!(self.api_version()));
        self
    }
}

// === impl Registry ===

impl Registry {
    /// What is built in.
    pub fn new() -> Self {
        Self(RwLock::new(Arc::new(Kinds::of(builtin::kinds()))))
    }

    /// All kinds there are now.
    pub fn kinds(&self) -> Arc<Kinds> {
        Arc::clone(&self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// From now on there is what is built in and what these CustomResourceDefinitions bring.
    pub fn define<'a>(&self, definitions: impl Iterator<Item = &'a Value>) {
        let mut all = builtin::kinds();
        for definition in definitions {
            all.extend(custom::kinds(definition));
        }
        *self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Arc::new(Kinds::of(all));
    }
}

// === impl Kinds ===

impl Kinds {
    fn of(kinds: Vec<Kind>) -> Self {
        let all: Vec<Arc<Kind>> = kinds.into_iter().map(|kind| Arc::new(kind.finished())).collect();
        let by_path = all
            .iter()
            .map(|kind| ((kind.group.clone(), kind.version.clone(), kind.plural.clone()), Arc::clone(kind)))
            .collect();
        Self { all, by_path }
    }

    /// The kind behind a path.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        self.by_path.get(&(group.to_owned(), version.to_owned(), plural.to_owned())).cloned()
    }

    /// Whether something of that group and version is built in.
    pub fn is_built_in(&self, group: &str, version: &str) -> bool {
        self.all.iter().any(|kind| !kind.custom && kind.group == group && kind.version == version)
    }

    /// Any version of what is in a table.
    pub fn of_table(&self, table: &TableId) -> Option<Arc<Kind>> {
        self.all.iter().find(|kind| kind.group == table.group && kind.plural == table.plural).cloned()
    }

    /// Groups with their versions, the preferred one first, in the order of discovery; the core group is none of them.
    pub fn groups(&self) -> Vec<(&str, Vec<&str>)> {
        let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
        for kind in self.all.iter().filter(|kind| !kind.group.is_empty()) {
            let at = groups.iter().position(|(group, _)| *group == kind.group).unwrap_or_else(|| {
                groups.push((&kind.group, Vec::new()));
                groups.len() - 1
            });
            if !groups[at].1.contains(&kind.version.as_str()) {
                groups[at].1.push(&kind.version);
            }
        }
        groups
    }
}
