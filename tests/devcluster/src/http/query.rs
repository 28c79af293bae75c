//! The parameters of a request.

use std::collections::HashMap;

use super::failure::{Failure, Result};

/// The parameters of a request.
#[derive(Debug, Clone, Default)]
pub struct Query(HashMap<String, String>);

// === impl Query ===

impl Query {
    /// Parses what is behind the `?`.
    pub fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        Self(pairs.map(|(key, value)| (decoded(key), decoded(value))).collect())
    }

    /// A parameter; empty ones are as none.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Whether a parameter is on.
    pub fn on(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|value| matches!(value.as_str(), "" | "1" | "true"))
    }

    /// A number.
    ///
    /// # Errors
    ///
    /// It is none.
    pub fn number(&self, key: &str) -> Result<Option<u64>> {
        let Some(text) = self.get(key) else { return Ok(None) };
        let number = text.parse().map_err(|_| Failure::bad_request(format!("invalid {key} {text:?}")))?;
        Ok(Some(number))
    }
}

/// Without percent signs and pluses.
pub fn decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.as_bytes().iter();
    while let Some(&byte) = bytes.next() {
        let ahead = bytes.as_slice();
        let code = ahead.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match (byte, code.and_then(|two| u8::from_str_radix(two, 16).ok())) {
            (b'%', Some(code)) => {
                out.push(code);
                bytes.nth(1);
            }
            (b'+', _) => out.push(b' '),
            _ => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let query = Query::parse("labelSelector=a%3Db%2Cc+in+%28d%29&watch&limit=5&empty=");
        assert_eq!(query.get("labelSelector"), Some("a=b,c in (d)"));
        assert!(query.on("watch"));
        assert_eq!(query.number("limit").unwrap(), Some(5));
        assert_eq!(query.get("empty"), None);
        assert_eq!(decoded("100%"), "100%");
    }
}
