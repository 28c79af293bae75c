//! Prometheus' answer to an instant query.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};

use crate::observe::error::SourceError;

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    status: Cow<'a, str>,
    #[serde(borrow, default)]
    error: Option<Cow<'a, str>>,
    /// A store that could not be reached, a sample that was left out: then not all is there.
    #[serde(default)]
    warnings: Vec<String>,
    #[serde(borrow)]
    data: Option<Data<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    #[serde(borrow)]
    result_type: Cow<'a, str>,
    #[serde(borrow)]
    result: Vec<Element<'a>>,
}

#[derive(Deserialize)]
struct Element<'a> {
    #[serde(borrow)]
    metric: Labels<'a>,
    /// When, and what as a text; a histogram has none.
    #[serde(borrow)]
    value: Option<(f64, Borrowed<'a>)>,
}

/// Labels and their values: few, so that a list is faster than a map.
struct Labels<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

/// A text in the answer itself, where it holds no escapes.
#[derive(Deserialize)]
struct Borrowed<'a>(#[serde(borrow)] Cow<'a, str>);

/// Calls `each` with each result's namespace (if it has one), the value of `label`, and its value. A result without
/// the label is skipped.
///
/// # Errors
///
/// It is no answer, an error, one of another type, or one that is not complete.
pub(super) fn for_each_result(
    body: &[u8],
    label: &str,
    mut each: impl FnMut(Option<&str>, &str, f64),
) -> Result<(), SourceError> {
    let answer: Answer<'_> = serde_json::from_slice(body)?;
    if answer.status != "success" {
        let error = answer.error.unwrap_or_default().into_owned();
        return Err(SourceError::Query { status: answer.status.into_owned(), error });
    }
    if !answer.warnings.is_empty() {
        return Err(SourceError::Warnings(answer.warnings));
    }
    let data = answer.data.ok_or(SourceError::NoData)?;
    if data.result_type != "vector" {
        return Err(SourceError::NotAVector(data.result_type.into_owned()));
    }
    for Element { metric, value } in &data.result {
        let Some(name) = metric.get(label) else { continue };
        let value = value.as_ref().and_then(|(_, text)| text.0.parse().ok()).unwrap_or(f64::NAN);
        each(metric.get("namespace"), name, value);
    }
    Ok(())
}

/// The error text of an answer with another status than 200.
pub(super) fn error_text(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
    }
    serde_json::from_slice::<Refusal>(body).ok().map(|refusal| refusal.error)
}

// === impl Labels ===

impl Labels<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(label, _)| label == name).map(|(_, value)| &**value)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Labels<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Labels<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("labels and their values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels<'de>, A::Error> {
                let mut pairs = Vec::with_capacity(2);
                while let Some((Borrowed(name), Borrowed(value))) = map.next_entry()? {
                    pairs.push((name, value));
                }
                Ok(Labels(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}
