//! A namespace file as a tree of values, each with its place: to say where in a plugin's configuration something is.

use std::{collections::HashMap, fmt};

use scaler_types::yaml;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_yaml::Spanned;

/// A value with its place.
pub(crate) type Placed = Spanned<Node>;

/// A YAML value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Node {
    /// A text, a number, true or false; empty where there is no value.
    Scalar(String),
    List(Vec<Placed>),
    Map(Vec<(Placed, Placed)>),
}

/// A scalar that was found.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found<'a> {
    pub(crate) line: u64,
    pub(crate) column: u64,
    /// The name of the resource that it describes: of the map around it that has a `name`.
    pub(crate) resource: Option<&'a str>,
    /// The keys that it is under, as in `tcpPorts.listen`; those of the resource, if there is one.
    pub(crate) key: String,
    pub(crate) text: &'a str,
}

struct NodeVisitor;

/// The tree of a file that was read before; `None`: it is no YAML.
pub(crate) fn parse(text: &str) -> Option<Placed> {
    serde_yaml::from_str_with_options(text, yaml::options()).ok()
}

// === impl Node ===

impl Node {
    /// The entry of a map.
    pub(crate) fn entry(&self, key: &str) -> Option<(&Placed, &Placed)> {
        let Self::Map(entries) = self else { return None };
        entries.iter().find(|(name, _)| name.value.text() == Some(key)).map(|(name, value)| (name, value))
    }

    /// The maps that describe a resource, by its name: those with `name: NAME`, and the values of keys NAME.
    pub(crate) fn resources(&self) -> HashMap<&str, &Placed> {
        let mut resources = HashMap::new();
        self.add_resources(&mut resources);
        resources
    }

    fn add_resources<'a>(&'a self, resources: &mut HashMap<&'a str, &'a Placed>) {
        for (key, child) in self.children() {
            if let Self::Map(_) = child.value {
                let named = child.value.entry("name").and_then(|(_, value)| value.value.text());
                if let Some(name) = named.or_else(|| key?.value.text()) {
                    resources.entry(name).or_insert(child);
                }
            }
            child.value.add_resources(resources);
        }
    }

    /// The scalars for which `wanted` says so, in the order of the file.
    pub(crate) fn find<'a>(&'a self, wanted: &dyn Fn(&str) -> bool) -> Vec<Found<'a>> {
        let mut found = Vec::new();
        self.find_below(None, "", wanted, &mut found);
        found
    }

    fn find_below<'a>(
        &'a self,
        resource: Option<&'a str>,
        path: &str,
        wanted: &dyn Fn(&str) -> bool,
        found: &mut Vec<Found<'a>>,
    ) {
        let name = self.entry("name").and_then(|(_, name)| name.value.text());
        let (resource, path) = name.map_or((resource, path), |name| (Some(name), ""));
        for (key, child) in self.children() {
            let key = match key.and_then(|key| key.value.text()) {
                Some(key) if path.is_empty() => key.to_owned(),
                Some(key) => format!("{path}.{key}"),
                None => path.to_owned(),
            };
            match &child.value {
                Self::Scalar(text) if wanted(text) => {
                    let (line, column) = (child.referenced.line(), child.referenced.column());
                    found.push(Found { line, column, resource, key, text });
                }
                node => node.find_below(resource, &key, wanted, found),
            }
        }
    }

    /// A scalar's text.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Scalar(text) => Some(text),
            Self::List(_) | Self::Map(_) => None,
        }
    }

    fn children(&self) -> Box<dyn Iterator<Item = (Option<&Placed>, &Placed)> + '_> {
        match self {
            Self::Scalar(_) => Box::new(std::iter::empty()),
            Self::List(items) => Box::new(items.iter().map(|item| (None, item))),
            Self::Map(entries) => Box::new(entries.iter().map(|(key, value)| (Some(key), value))),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Node, E> {
        Ok(Node::Scalar(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Node, E> {
        Ok(Node::Scalar(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Scalar(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(String::new()))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(String::new()))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Node::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_with_its_place_and_keys() {
        let text = "namespace: demo\nplugins:\n  process:\n    resources:\n      - name: web\n        port: 9000\n        \
                    hosts: [a.localhost, B.localhost]\n        tcpPorts:\n          - {listen: 6379}\n  other:\n    db: {port: 1}\n";
        let tree = parse(text).unwrap();
        let (_, plugins) = tree.value.entry("plugins").unwrap();
        let (key, process) = plugins.value.entry("process").unwrap();
        assert_eq!((key.referenced.line(), key.referenced.column()), (3, 3));
        let web = process.value.resources()["web"];
        assert_eq!((web.referenced.line(), web.referenced.column()), (5, 9));
        let wanted = |text: &str| text == "6379" || text.eq_ignore_ascii_case("b.localhost") || text == "1";
        let found = tree.value.find(&wanted);
        let found: Vec<_> = found
            .iter()
            .map(|found| (found.line, found.column, found.resource, &*found.key, found.text))
            .collect();
        let (host, listen) =
            ((7, 30, Some("web"), "hosts", "B.localhost"), (9, 22, Some("web"), "tcpPorts.listen", "6379"));
        assert_eq!(found, [host, listen, (11, 16, None, "plugins.other.db.port", "1")]);
        let mut names: Vec<_> = plugins.value.resources().into_keys().collect();
        names.sort_unstable();
        assert_eq!(names, ["db", "other", "process", "web"]);
        assert_eq!(parse("a: [1"), None);
    }
}
