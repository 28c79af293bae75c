//! JSON that every serialiser writes alike.
//!
//! The API server compares what a patch tests by the text that its own encoder writes. What holds printable ASCII only, without the
//! letters that Go's encoder minds, is the same text in every program; so everything else stands as `\uXXXX` inside of it.

use std::io;

use serde::Serialize;
use serde_json::{Serializer, ser::Formatter};

/// Escapes whatever is not [plain](is_plain).
struct Ascii;

/// The JSON text of what is made of texts, numbers and the like.
pub(crate) fn text(value: &impl Serialize) -> String {
    let mut text = Vec::new();
    value
        .serialize(&mut Serializer::with_formatter(&mut text, Ascii))
        .expect("it is made of texts and numbers");
    String::from_utf8(text).expect("it is ASCII")
}

/// Whether every serialiser writes this text alike.
pub(crate) fn is_plain(text: &str) -> bool {
    text.chars().all(plain)
}

fn plain(letter: char) -> bool {
    matches!(letter, ' '..='~') && !matches!(letter, '<' | '>' | '&')
}

// === impl Ascii ===

impl Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, letter)) = rest.char_indices().find(|(_, letter)| !plain(*letter)) {
            writer.write_all(&rest.as_bytes()[..at])?;
            for unit in letter.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = &rest[at + letter.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_others_may_write_otherwise_is_escaped() {
        let all = "a \"b\" \\ x->y <&> \u{7f} é \u{2028} 😀\n";
        let plain = r#""a \"b\" \\ x-\u003ey \u003c\u0026\u003e \u007f \u00e9 \u2028 \ud83d\ude00\n""#;
        assert_eq!(text(&all), plain);
    }

    proptest! {
        #[test]
        fn any_text_is_written_plainly_and_read_back(letters in prop::collection::vec(any::<char>(), 0..20)) {
            let any: String = letters.into_iter().collect();
            let written = text(&any);
            prop_assert!(is_plain(&written), "{}", written);
            prop_assert_eq!(serde_json::from_str::<String>(&written).unwrap(), any);
        }
    }
}
