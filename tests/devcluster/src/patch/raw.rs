//! JSON by its text. The real server compares the values of a JSON patch's `test` so: a character that is written another way is another
//! one, and so is a number.

use serde_json::Value;

/// A JSON value that keeps how it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Raw<'t> {
    /// An object; its keys are compared by what they mean.
    Object(Vec<(String, Self)>),
    /// A list.
    Array(Vec<Self>),
    /// A string, a number, `true`, `false` or `null`, letter by letter.
    Plain(&'t str),
}

/// What is left to read of a text.
struct Reader<'t>(&'t str);

// === impl Raw ===

impl<'t> Raw<'t> {
    /// Reads a text that is known to be JSON; `None` where it is not.
    pub(super) fn read(text: &'t str) -> Option<Self> {
        Reader(text).value()
    }

    /// A field of an object.
    pub(super) fn field(&self, name: &str) -> Option<&Self> {
        let Self::Object(fields) = self else { return None };
        fields.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// An entry of a list.
    pub(super) fn entry(&self, index: usize) -> Option<&Self> {
        let Self::Array(entries) = self else { return None };
        entries.get(index)
    }

    /// Whether a stored value is this, by the text that the real server has of it.
    pub(super) fn is(&self, held: &Value) -> bool {
        match (self, held) {
            (Self::Object(fields), Value::Object(held)) => {
                fields.len() == held.len()
                    && fields.iter().all(|(key, value)| held.get(key).is_some_and(|held| value.is(held)))
            }
            (Self::Array(entries), Value::Array(held)) => {
                entries.len() == held.len() && entries.iter().zip(held).all(|(entry, held)| entry.is(held))
            }
            (Self::Plain(text), Value::String(_) | Value::Number(_) | Value::Bool(_) | Value::Null) => {
                *text == written(held)
            }
            _ => false,
        }
    }
}

/// What is neither an object nor a list, as Go's encoder writes it: strings that are safe inside of HTML.
fn written(value: &Value) -> String {
    if let Some(number) = value.as_f64().filter(|number| value.is_f64() && number.fract() == 0.0) {
        return format!("{number:.0}");
    }
    let mut text = String::new();
    for letter in value.to_string().chars() {
        match letter {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                text.push_str(&format!("\\u{:04x}", u32::from(letter)));
            }
            letter => text.push(letter),
        }
    }
    text
}

// === impl Reader ===

impl<'t> Reader<'t> {
    fn value(&mut self) -> Option<Raw<'t>> {
        match self.peek()? {
            '{' => {
                let mut fields = Vec::new();
                self.list('}', |reader| {
                    let key = reader.string()?;
                    reader.eat(':')?;
                    fields.push((serde_json::from_str(key).ok()?, reader.value()?));
                    Some(())
                })?;
                Some(Raw::Object(fields))
            }
            '[' => {
                let mut entries = Vec::new();
                self.list(']', |reader| {
                    entries.push(reader.value()?);
                    Some(())
                })?;
                Some(Raw::Array(entries))
            }
            '"' => self.string().map(Raw::Plain),
            _ => {
                let ends = |letter: char| letter.is_ascii_whitespace() || ",]}".contains(letter);
                Some(Raw::Plain(self.take(self.0.find(ends).unwrap_or(self.0.len()))))
            }
        }
    }

    /// From an opening bracket to its closing one.
    fn list(&mut self, close: char, mut one: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.take(1);
        if self.peek()? != close {
            one(self)?;
            while self.peek()? == ',' {
                self.take(1);
                one(self)?;
            }
        }
        self.eat(close)
    }

    /// A string with its quotes.
    fn string(&mut self) -> Option<&'t str> {
        self.peek().filter(|letter| *letter == '"')?;
        let mut escaped = true;
        let end = self.0.char_indices().find(|(_, letter)| {
            let ends = *letter == '"' && !escaped;
            // The first one opens it.
            escaped = *letter == '\\' && !escaped;
            ends
        })?;
        Some(self.take(end.0 + 1))
    }

    fn peek(&mut self) -> Option<char> {
        self.0 = self.0.trim_ascii_start();
        self.0.chars().next()
    }

    fn eat(&mut self, letter: char) -> Option<()> {
        if self.peek()? != letter {
            return None;
        }
        self.take(letter.len_utf8());
        Some(())
    }

    fn take(&mut self, length: usize) -> &'t str {
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_compared_by_the_text_that_go_writes() {
        for (text, held, same) in [
            (r#""x-\u003ey""#, json!("x->y"), true),
            (r#""x->y""#, json!("x->y"), false),
            (r#""\u003C""#, json!("<"), false),
            (r#""\u2028""#, json!("\u{2028}"), true),
            ("\"\u{2028}\"", json!("\u{2028}"), false),
            (r#""é""#, json!("é"), true),
            (r#""\u00e9""#, json!("é"), false),
            (r#""a\"b\\c\n""#, json!("a\"b\\c\n"), true),
            (r#""\\""#, json!("\\"), true),
            ("3", json!(3), true),
            ("3.0", json!(3), false),
            ("3", json!(3.0), true),
            ("null", Value::Null, true),
            (r#" { "\u003c" : [ 1 , "a" ] } "#, json!({"<": [1, "a"]}), true),
            (r#"{"a": {}, "b": []}"#, json!({"b": [], "a": {}}), true),
            (r#"{"a": 1}"#, json!({"a": 1, "b": 2}), false),
            ("[1]", json!([1, 2]), false),
            ("[]", json!({}), false),
        ] {
            assert_eq!(Raw::read(text).unwrap().is(&held), same, "{text} and {held}");
        }
    }
}
