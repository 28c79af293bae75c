//! Label selectors, as query parameters and as objects have them.

use serde_json::Value;

use crate::http::failure::{Failure, Result};

/// What labels must be.
#[derive(Debug, Clone, Default)]
pub struct LabelSelector(Vec<Requirement>);

#[derive(Debug, Clone)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Missing,
}

// === impl LabelSelector ===

impl LabelSelector {
    /// Parses `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
    ///
    /// # Errors
    ///
    /// It is none.
    pub fn parse(text: &str) -> Result<Self> {
        split(text).into_iter().map(Requirement::parse).collect::<Result<_>>().map(Self)
    }

    /// The selector in a workload's `spec.selector`: a map of labels, or `matchLabels` and `matchExpressions`.
    pub fn of(selector: &Value) -> Self {
        let mut all = Vec::new();
        let structured = selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some();
        let equal = if structured { &selector["matchLabels"] } else { selector };
        for (key, value) in equal.as_object().into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            all.push(Requirement { key: key.clone(), test: Test::In(vec![value]) });
        }
        for one in selector["matchExpressions"].as_array().into_iter().flatten() {
            let values = one["values"].as_array().into_iter().flatten();
            let values = values.filter_map(|value| value.as_str().map(str::to_owned)).collect();
            let test = match one["operator"].as_str().unwrap_or_default() {
                "NotIn" => Test::NotIn(values),
                "Exists" => Test::Exists,
                "DoesNotExist" => Test::Missing,
                _ => Test::In(values),
            };
            all.push(Requirement { key: one["key"].as_str().unwrap_or_default().to_owned(), test });
        }
        Self(all)
    }

    /// Whether these labels are so.
    pub fn matches(&self, labels: &Value) -> bool {
        self.0.iter().all(|requirement| requirement.matches(labels))
    }

    /// As the scale subresource has it: `app=web,tier in (a,b)`.
    pub fn text(&self) -> String {
        self.0.iter().map(Requirement::text).collect::<Vec<_>>().join(",")
    }

    /// Whether it takes everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// At the commas outside of parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0);
    for (at, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts.into_iter().map(str::trim).filter(|part| !part.is_empty()).collect()
}

// === impl Requirement ===

impl Requirement {
    fn parse(text: &str) -> Result<Self> {
        let bad =
            || Failure::bad_request(format!("unable to parse requirement: {text:?} is no label selector"));
        let values = |set: &str| -> Result<Vec<String>> {
            let inner = set.trim().strip_prefix('(').and_then(|set| set.strip_suffix(')')).ok_or_else(bad)?;
            Ok(inner.split(',').map(|value| value.trim().to_owned()).collect())
        };
        let (key, test) = if let Some(key) = text.strip_prefix('!') {
            (key, Test::Missing)
        } else if let Some((key, set)) = text.split_once(" notin ") {
            (key, Test::NotIn(values(set)?))
        } else if let Some((key, set)) = text.split_once(" in ") {
            (key, Test::In(values(set)?))
        } else if let Some((key, value)) = text.split_once("!=") {
            (key, Test::NotIn(vec![value.trim().to_owned()]))
        } else if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
            (key, Test::In(vec![value.trim().to_owned()]))
        } else {
            (text, Test::Exists)
        };
        let key = key.trim();
        if key.is_empty()
            || !key.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_./".contains(letter))
        {
            return Err(bad());
        }
        Ok(Self { key: key.to_owned(), test })
    }

    fn matches(&self, labels: &Value) -> bool {
        let value = labels.get(&self.key).and_then(Value::as_str);
        match &self.test {
            Test::In(values) => value.is_some_and(|value| values.iter().any(|one| one == value)),
            Test::NotIn(values) => value.is_none_or(|value| values.iter().all(|one| one != value)),
            Test::Exists => value.is_some(),
            Test::Missing => value.is_none(),
        }
    }

    fn text(&self) -> String {
        let key = &self.key;
        match &self.test {
            Test::In(values) if values.len() == 1 => format!("{key}={}", values[0]),
            Test::In(values) => format!("{key} in ({})", values.join(",")),
            Test::NotIn(values) if values.len() == 1 => format!("{key}!={}", values[0]),
            Test::NotIn(values) => format!("{key} notin ({})", values.join(",")),
            Test::Exists => key.clone(),
            Test::Missing => format!("!{key}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_take_what_they_say() {
        let labels = json!({"app": "web", "tier": "front"});
        for (text, taken) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier!=back", true),
            ("app in (web, db)", true),
            ("app notin (web,db)", false),
            ("app,!other", true),
            ("!app", false),
            ("other!=x", true),
            ("other notin (x)", true),
            ("other in (x)", false),
        ] {
            assert_eq!(LabelSelector::parse(text).unwrap().matches(&labels), taken, "{text}");
        }
        assert!(LabelSelector::parse("a in b").is_err());
        assert!(LabelSelector::parse("=b").is_err());
    }

    #[test]
    fn a_selector_as_an_object_is_shown_as_text() {
        let selector = json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}],
        });
        assert_eq!(LabelSelector::of(&selector).text(), "app=web,tier in (a,b)");
    }
}
