//! Answers that list resources: one that cannot be read costs that resource only.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

use scaler_types::{Changes, Resource, ResourceId};
use serde::Deserialize;
use serde_json::{Error, Map, Value, json};

/// A plugin's list, as far as it can be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listed<T> {
    /// The readable part.
    pub readable: T,
    /// Resources that are listed and cannot be read. Their last known state is kept, and nothing is decided by it: missing
    /// data never counts as idle, or as gone.
    pub unreadable: Vec<UnreadableResource>,
}

/// A resource that is listed and cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnreadableResource {
    /// Which one; `None`: its name cannot be read either, so it may be any.
    pub id: Option<ResourceId>,
    /// The fields that are wrong, and why.
    pub error: String,
}

/// The unreadable resources of one plugin that were logged, so that each is logged once.
#[derive(Debug, Default)]
pub(crate) struct LoggedUnreadable(Mutex<BTreeSet<UnreadableResource>>);

// === impl Listed ===

impl<T> Listed<T> {
    /// Why a resource that is not among the readable ones may be listed all the same, by its identity.
    pub fn why_unreadable<'a>(&'a self) -> impl Fn(&ResourceId) -> Option<&'a str> {
        let named = self.unreadable.iter().filter_map(|one| Some((one.id.as_ref()?, &*one.error)));
        let named: HashMap<_, _> = named.collect();
        let nameless = self.unreadable.iter().find(|one| one.id.is_none()).map(|one| &*one.error);
        move |id| named.get(id).copied().or(nameless)
    }
}

impl<T> From<T> for Listed<T> {
    fn from(readable: T) -> Self {
        Self { readable, unreadable: Vec::new() }
    }
}

/// Reads the answer to `get_resources`.
pub(crate) fn read_resources(answer: &[u8]) -> Result<Listed<Vec<Resource>>, Error> {
    serde_json::from_slice::<Vec<Resource>>(answer).map(Listed::from).or_else(|error| {
        let each = serde_json::from_slice(answer).map_err(|_| error)?;
        Ok(read_each(each))
    })
}

/// Reads the answer to `changes`.
pub(crate) fn read_changes(answer: &[u8]) -> Result<Listed<Changes>, Error> {
    serde_json::from_slice::<Changes>(answer).map(Listed::from).or_else(|error| {
        let Ok(Value::Object(mut changes)) = serde_json::from_slice(answer) else { return Err(error) };
        let Some(Value::Array(each)) = changes.remove("resources") else { return Err(error) };
        let Listed { readable: resources, unreadable } = read_each(each);
        let changes = Changes { resources, ..Changes::deserialize(Value::Object(changes))? };
        Ok(Listed { readable: changes, unreadable })
    })
}

fn read_each(each: Vec<Value>) -> Listed<Vec<Resource>> {
    let mut listed = Listed::<Vec<Resource>>::default();
    for resource in each {
        match Resource::deserialize(&resource) {
            Ok(resource) => listed.readable.push(resource),
            Err(error) => listed.unreadable.push(UnreadableResource {
                id: ResourceId::deserialize(&resource).ok(),
                error: wrong_fields(&resource).unwrap_or_else(|| error.to_string()),
            }),
        }
    }
    listed
}

/// The fields that cannot be read even alone, each with its error; `None`: it is another error.
fn wrong_fields(resource: &Value) -> Option<String> {
    let wrong = resource.as_object()?.iter().filter_map(|(name, value)| {
        let mut alone = Map::from_iter(["namespace", "name"].map(|name| (name.to_owned(), json!("-"))));
        alone.insert(name.clone(), value.clone());
        let error = Resource::deserialize(Value::Object(alone)).err()?;
        Some(format!("field {name}: {error}"))
    });
    let wrong: Vec<_> = wrong.collect();
    (!wrong.is_empty()).then(|| wrong.join("; "))
}

// === impl LoggedUnreadable ===

impl LoggedUnreadable {
    /// Logs what an answer of the plugin `kind` in `namespace` says of unreadable resources, if it is new: `listed` can be read,
    /// `unreadable` not; `removed` is gone, `None`: all else is.
    pub(crate) fn log(
        &self,
        (kind, namespace): (&str, &str),
        listed: &[Resource],
        unreadable: &[UnreadableResource],
        removed: Option<&[ResourceId]>,
    ) {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.is_empty() && unreadable.is_empty() {
            return;
        }
        let same: BTreeSet<_> = unreadable.iter().collect();
        let readable: HashSet<_> = listed.iter().map(|resource| &resource.id).collect();
        // Without a readable name, only their errors distinguish two of them.
        let named = unreadable.iter().filter_map(|one| one.id.as_ref());
        let replaced: HashSet<_> = named.chain(removed.unwrap_or_default()).collect();
        logged.retain(|one| {
            if same.contains(one) {
                return true;
            }
            match &one.id {
                Some(id) if readable.contains(id) => {
                    tracing::info!(kind, namespace, resource = %id, "resource can be read again");
                    false
                }
                id => removed.is_some() && id.as_ref().is_none_or(|id| !replaced.contains(id)),
            }
        });
        for one in unreadable {
            if logged.insert(one.clone()) {
                let UnreadableResource { id, error } = one;
                let resource =
                    id.as_ref().map_or_else(|| "(without a readable name)".to_owned(), ResourceId::to_string);
                tracing::warn!(kind, namespace, resource, %error, "failed to read a resource that the plugin lists; keeping its last known state");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use super::*;

    /// Three resources, of which the second is this one.
    fn list(second: &Value) -> Value {
        json!([{"namespace": "demo", "name": "a", "replicas": 1}, second, {"namespace": "demo", "name": "c"}])
    }

    fn unreadable(id: Option<&str>, error: &str) -> UnreadableResource {
        UnreadableResource { id: id.map(|name| ResourceId::new("demo", name)), error: error.to_owned() }
    }

    #[test]
    fn one_unreadable_resource_costs_itself_only_and_is_named_with_its_fields() {
        for (second, id, error) in [
            (json!({"replicas": -1}), Some("b"), "field replicas: invalid value: integer `-1`, expected u32"),
            (
                json!({"ports": [{"listen": "80"}], "hosts": "b", "later": 1}),
                Some("b"),
                "field hosts: invalid type: string \"b\", expected a sequence; field ports: invalid type: string \"80\", expected u16",
            ),
            (json!({"namespace": 7}), None, "field namespace: invalid type: integer `7`, expected a string"),
            (json!(7), None, "invalid type: integer `7`, expected struct Resource"),
            (json!({"name": null}), None, "field name: invalid type: null, expected a string"),
        ] {
            let mut resource = json!({"namespace": "demo", "name": "b"});
            match second {
                Value::Object(fields) => resource.as_object_mut().unwrap().extend(fields),
                other => resource = other,
            }
            let listed = read_resources(list(&resource).to_string().as_bytes()).unwrap();
            let names: Vec<_> = listed.readable.iter().map(|resource| &*resource.id.name).collect();
            assert_eq!((names, listed.readable[0].replicas), (vec!["a", "c"], 1), "{resource}");
            assert_eq!(listed.unreadable, [unreadable(id, error)], "{resource}");
            let changes = json!({"cursor": 7, "complete": true, "resources": list(&resource), "removed": [{"namespace": "demo", "name": "d"}]});
            let changes = read_changes(changes.to_string().as_bytes()).unwrap();
            assert_eq!(changes.unreadable, listed.unreadable);
            let Changes { cursor, complete, resources, removed } = changes.readable;
            assert_eq!((cursor, complete, &removed[0].name[..], resources), (7, true, "d", listed.readable));
        }
    }

    #[test]
    fn what_is_no_list_of_resources_is_an_error() {
        for answer in ["[", "7", "{}", r#"[{"namespace": "demo", "name": "a"}"#] {
            read_resources(answer.as_bytes()).unwrap_err();
        }
        for answer in [
            "[]",
            r#"{"resources": []}"#,
            r#"{"cursor": 1, "resources": 7}"#,
            r#"{"cursor": 1, "removed": [7]}"#,
        ] {
            read_changes(answer.as_bytes()).unwrap_err();
        }
        let readable = read_changes(br#"{"cursor": 1}"#).unwrap();
        assert_eq!(readable, Changes { cursor: 1, ..Changes::default() }.into());
    }

    #[test]
    fn one_without_a_readable_name_may_be_any() {
        let named = |id| Listed { readable: (), unreadable: vec![unreadable(id, "why")] };
        let id = |name| ResourceId::new("demo", name);
        assert_eq!(named(Some("a")).why_unreadable()(&id("a")), Some("why"));
        assert_eq!(named(Some("a")).why_unreadable()(&id("b")), None);
        assert_eq!(named(None).why_unreadable()(&id("b")), Some("why"));
    }

    #[test]
    fn many_unreadable_resources_take_no_quadratic_time() {
        // Quadratic, it would take longer than a test may.
        let logged = LoggedUnreadable::default();
        let unreadable: Vec<_> =
            (0..100_000).map(|number| unreadable(Some(&number.to_string()), "why")).collect();
        let ids: Vec<_> = unreadable.iter().filter_map(|one| one.id.clone()).collect();
        let listed = Listed { readable: (), unreadable };
        let why_unreadable = listed.why_unreadable();
        assert!(ids.iter().all(|id| why_unreadable(id).is_some()));
        let resources: Vec<_> = ids.into_iter().map(Resource::new).collect();
        for unreadable in [&*listed.unreadable, &listed.unreadable, &[]] {
            logged.log(("test", "demo"), &resources, unreadable, None);
        }
    }

    #[test]
    fn an_unreadable_resource_is_logged_anew_once_it_was_removed() {
        let logged = LoggedUnreadable::default();
        let id = |name| ResourceId::new("demo", name);
        let log = |unreadable: &[UnreadableResource], removed: Option<&[ResourceId]>| {
            logged.log(("test", "demo"), &[], unreadable, removed);
            logged.0.lock().unwrap().iter().cloned().collect::<Vec<_>>()
        };
        let (a, b) = (unreadable(Some("a"), "why"), unreadable(Some("b"), "why"));
        let both = [a, b];
        assert_eq!(log(&both, None), both);
        assert_eq!(log(&[], Some(&[id("a")])), both[1..]);
        assert_eq!(log(&both[..1], Some(&[])), both);
        assert_eq!(log(&[], None), []);
        // Neither of two without a readable name pushes the other out.
        let (one, other) = (unreadable(None, "field name"), unreadable(None, "field namespace"));
        for answer in [&one, &other, &one] {
            log(std::slice::from_ref(answer), Some(&[]));
        }
        assert_eq!(log(&[], Some(&[])), [one, other]);
    }

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_unreadable_resource_is_logged_once_and_when_its_error_changes_or_ends() {
        let (written, logged) = (Written::default(), LoggedUnreadable::default());
        let writer = written.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let _default = tracing::subscriber::set_default(subscriber);
        let log = |listed: &[&str], wrong: &[UnreadableResource], complete: bool| {
            let resource = |name: &&str| Resource::new(ResourceId::new("demo", *name));
            let listed: Vec<_> = listed.iter().map(resource).collect();
            logged.log(("test", "demo"), &listed, wrong, (!complete).then_some(&[]));
            let lines = String::from_utf8(std::mem::take(&mut *written.0.lock().unwrap())).unwrap();
            lines.lines().map(|line| line.split_whitespace().nth(1).unwrap().to_owned()).collect::<Vec<_>>()
        };
        let (a, nameless) = (unreadable(Some("a"), "replicas"), unreadable(None, "name"));
        assert_eq!(log(&["b"], &[a.clone(), nameless.clone()], true), ["WARN", "WARN"]);
        assert_eq!(log(&["b"], &[nameless.clone(), a.clone()], true), [""; 0]);
        assert_eq!(log(&["b"], &[], false), [""; 0], "a change of another");
        assert_eq!(log(&["b"], &[unreadable(Some("a"), "hosts")], true), ["WARN"]);
        assert_eq!(log(&["a"], &[], false), ["INFO"]);
        assert_eq!(log(&["a"], &[], true), [""; 0]);
        assert_eq!(log(&[], std::slice::from_ref(&a), true), ["WARN"]);
        assert_eq!(log(&[], &[], true), [""; 0], "it is gone");
        assert_eq!(log(&[], &[a], true), ["WARN"]);
    }
}
