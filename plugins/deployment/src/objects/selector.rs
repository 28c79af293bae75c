//! Label selectors.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Labels of an object.
pub(crate) type Labels = BTreeMap<String, String>;

/// A label selector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    /// Labels that have to be there as they stand.
    pub(crate) equal: Labels,
    rules: Vec<Rule>,
}

/// A requirement on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Rule {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Missing(String),
    /// An operator that is not known: nothing matches.
    Never,
}

// === impl Selector ===

impl Selector {
    /// Whether it is empty, and so selects nothing here.
    pub(crate) fn is_empty(&self) -> bool {
        self.equal.is_empty() && self.rules.is_empty()
    }

    /// Whether an object with these labels is meant.
    pub(crate) fn matches(&self, labels: &Labels) -> bool {
        !self.is_empty()
            && self.equal.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.rules.iter().all(|rule| match rule {
                Rule::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
                Rule::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
                Rule::Exists(key) => labels.contains_key(key),
                Rule::Missing(key) => !labels.contains_key(key),
                Rule::Never => false,
            })
    }

    /// As a query of the API takes it.
    pub(crate) fn query(&self) -> String {
        let equal = self.equal.iter().map(|(key, value)| format!("{key}={value}"));
        let rules = self.rules.iter().map(|rule| match rule {
            Rule::In(key, values) => format!("{key} in ({})", values.join(",")),
            Rule::NotIn(key, values) => format!("{key} notin ({})", values.join(",")),
            Rule::Exists(key) => key.clone(),
            Rule::Missing(key) => format!("!{key}"),
            Rule::Never => "scaler.dev/nothing=nothing".to_owned(),
        });
        equal.chain(rules).collect::<Vec<_>>().join(",")
    }

    /// From the text that `status.selector` of a scale has: `a=b,c==d`; anything more is not read, and selects nothing.
    pub(crate) fn parse(text: &str) -> Self {
        let mut equal = Labels::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            match part.split_once("==").or_else(|| part.split_once('=')) {
                Some((key, value)) if !key.ends_with('!') && !part.contains(['(', ' ']) => {
                    equal.insert(key.trim().to_owned(), value.trim().to_owned());
                }
                _ => return Self { equal: Labels::new(), rules: vec![Rule::Never] },
            }
        }
        Self { equal, rules: Vec::new() }
    }
}

impl From<LabelSelector> for Selector {
    fn from(selector: LabelSelector) -> Self {
        let rules = selector.match_expressions.into_iter().flatten().map(|one| {
            let values = one.values.unwrap_or_default();
            match one.operator.as_str() {
                "In" => Rule::In(one.key, values),
                "NotIn" => Rule::NotIn(one.key, values),
                "Exists" => Rule::Exists(one.key),
                "DoesNotExist" => Rule::Missing(one.key),
                _ => Rule::Never,
            }
        });
        Self { rules: rules.collect(), equal: selector.match_labels.unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_selected_as_kubernetes_does() {
        let selector: LabelSelector = serde_json::from_value(serde_json::json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["front", "back"]},
                {"key": "track", "operator": "NotIn", "values": ["canary"]},
                {"key": "hash", "operator": "Exists"},
                {"key": "debug", "operator": "DoesNotExist"},
            ],
        }))
        .unwrap();
        let selector = Selector::from(selector);
        let labels = |text: &str| Selector::parse(text).equal;
        assert!(selector.matches(&labels("app=web,tier=back,hash=1")));
        for no in [
            "app=api,tier=back,hash=1",
            "app=web,tier=side,hash=1",
            "app=web,tier=back",
            "app=web,tier=back,hash=1,debug=1",
            "app=web,tier=back,hash=1,track=canary",
        ] {
            assert!(!selector.matches(&labels(no)), "{no}");
        }
        assert_eq!(selector.query(), "app=web,tier in (front,back),track notin (canary),hash,!debug");
        assert!(!Selector::default().matches(&labels("app=web")), "nothing said is nothing selected");
        assert!(!Selector::parse("app in (web)").matches(&labels("app=web")));
        assert!(!Selector::parse("app!=web").matches(&labels("app=web")));
    }
}
