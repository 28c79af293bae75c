//! The field's words in the product crates: a type's name stands once, a function's name says what it does, and logs and
//! errors use none of the words that nobody outside this project understands.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use anyhow::{Result, bail};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

use super::source::{Crate, SourceFile};

/// Names that say nothing about what a function does.
const BANNED_FUNCTIONS: [&str; 5] = ["told", "saw", "of", "at", "one"];

/// Words and phrases that no log line, error or other text of the product says, each with what is said instead.
const BANNED_WORDS: &[(&str, &str)] = &[
    ("who", "the noun: the client, the DLX, the leader"),
    ("whom", "the noun"),
    ("whose", "the noun"),
    ("nobody", "no client, no DLX; unknown host"),
    ("nobody's", "unknown host"),
    ("somebody", "the noun: another process, another writer"),
    ("told", "reported, sent"),
    ("led", "intercepted"),
    ("leads", "intercepts; is the leader"),
    ("lost the lead", "lost leadership"),
    ("stands by", "standby"),
    ("given back", "restored"),
    ("gives back", "restores"),
    ("gave back", "restored"),
    ("give back", "restore"),
    ("row", "record; state"),
    ("rows", "records"),
    ("fence", "drain"),
    ("fenced", "drained; intercepted"),
    ("fencing", "draining"),
    ("put to zero", "scaled to zero"),
    ("put to sleep", "scaled to zero"),
    ("at zero", "asleep; scaled to zero"),
    ("a try", "an attempt"),
    ("tries", "attempts"),
    ("dead-man", "failover; DLX unavailable"),
    ("dead man", "failover; DLX unavailable"),
    ("route grace", "endpoint propagation delay"),
    ("let go", "dispatched"),
    ("stronger", "takes precedence over"),
    ("looks over", "validates"),
    ("looked over", "validated"),
    ("by hand", "manually"),
    ("mend", "repair"),
    ("mends", "repairs"),
    ("mended", "repaired"),
    ("left behind", "stale"),
    ("owners", "users"),
    ("at work", "running"),
    ("looked after", "managed"),
    ("looks after", "manages"),
    ("broke the exchange", "upstream connection error"),
    ("seam", "plugin boundary"),
    ("keeper", "manager; shim"),
    ("patience", "timeout"),
];

/// Fails on a type name that is defined twice, a banned function name and a banned word.
///
/// # Errors
///
/// All that were found, each with its place.
pub fn check(crates: &[Crate]) -> Result<()> {
    let mut types: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut found = Vec::new();
    let mut read = BTreeSet::new();
    for source in crates {
        for file in &source.files {
            // A file that two crate roots share is read once.
            if read.insert(&file.path) {
                find(file, file.tokens.clone(), &mut types, &mut found);
            }
        }
    }
    for (name, places) in types {
        if places.len() > 1 {
            found.push(format!(
                "type {name} is defined {} times:\n    {}",
                places.len(),
                places.join("\n    ")
            ));
        }
    }
    let mut text = String::new();
    for shown in found.into_iter().collect::<BTreeSet<_>>() {
        write!(text, "\n  {shown}")?;
    }
    if !text.is_empty() {
        bail!("names and words to change:{text}");
    }
    Ok(())
}

fn find(
    file: &SourceFile,
    tokens: TokenStream,
    types: &mut BTreeMap<String, Vec<String>>,
    found: &mut Vec<String>,
) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    for (index, token) in tokens.iter().enumerate() {
        let line = token.span().start().line;
        match token {
            TokenTree::Ident(keyword) => {
                let Some(TokenTree::Ident(name)) = tokens.get(index + 1) else { continue };
                let name = name.to_string();
                if keyword == "fn" && BANNED_FUNCTIONS.contains(&name.as_str()) {
                    found.push(format!("a function's name is a verb: {}", file.show(line)));
                }
                let is_type = ["struct", "enum", "union", "trait", "type"].iter().any(|word| keyword == word);
                if is_type && is_seen_outside(&tokens[..index]) {
                    types.entry(name).or_default().push(file.show(line));
                }
            }
            // A doc comment is an attribute; `#[error("..")]` another.
            TokenTree::Group(group) if group.delimiter() == Delimiter::Bracket && is_doc(group) => {}
            TokenTree::Group(group) => find(file, group.stream(), types, found),
            TokenTree::Literal(literal) => {
                for (word, instead) in banned_words(&literal.to_string()) {
                    let shown = format!("\"{word}\" (rather: {instead}): {}", file.show(line));
                    found.push(shown);
                }
            }
            TokenTree::Punct(_) => {}
        }
    }
}

fn is_doc(group: &proc_macro2::Group) -> bool {
    matches!(group.stream().into_iter().next(), Some(TokenTree::Ident(word)) if word == "doc")
}

/// Whether what stands before an item ends with `pub` or `pub(crate)`.
fn is_seen_outside(before: &[TokenTree]) -> bool {
    let before = match before {
        [before @ .., TokenTree::Ident(word)] if word == "unsafe" => before,
        all => all,
    };
    match before {
        [.., TokenTree::Ident(word)] => word == "pub",
        [.., TokenTree::Ident(word), TokenTree::Group(scope)] => {
            word == "pub" && scope.stream().to_string() == "crate"
        }
        _ => false,
    }
}

/// The banned words of a literal that is a text: one with a space in it. Names in braces are not part of it.
fn banned_words(literal: &str) -> Vec<&'static (&'static str, &'static str)> {
    if !literal.contains('"') || !literal.trim_matches('"').contains(' ') {
        return Vec::new();
    }
    let mut words = String::from(" ");
    let mut depth = 0_usize;
    for character in literal.replace("\\n", " ").chars() {
        match character {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ if depth > 0 => {}
            // What makes one word: a flag, a key, a path, a quoted name.
            letter if letter.is_alphanumeric() || "'-_`./".contains(letter) => {
                words.extend(letter.to_lowercase())
            }
            _ => words.push(' '),
        }
    }
    words.push(' ');
    let words = words.replace(". ", " ");
    let words = format!(" {} ", words.split_whitespace().collect::<Vec<_>>().join(" "));
    BANNED_WORDS.iter().filter(|(word, _)| words.contains(&format!(" {word} "))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_in_texts_only() {
        let found =
            |literal: &str| banned_words(literal).into_iter().map(|(word, _)| *word).collect::<Vec<_>>();
        assert_eq!(found(r#""Nobody's request, by hand.""#), ["nobody's", "by hand"]);
        assert_eq!(found(r#""the {row} of {who:?} is unknown""#), [""; 0]);
        assert_eq!(found(r#""row""#), [""; 0], "a key, not a text");
        assert_eq!(found(r#""--dead-man-timeout and `row` and fences and brown rows""#), ["rows"]);
    }

    #[test]
    fn types_are_those_that_others_see() {
        let seen = |text: &str| {
            let tokens: Vec<TokenTree> = text.parse::<TokenStream>().unwrap().into_iter().collect();
            is_seen_outside(&tokens)
        };
        assert_eq!(["pub", "#[a] pub(crate)", "x; pub unsafe"].map(seen), [true; 3]);
        assert_eq!(["", "pub(super)", "pub {}", "pub(in crate::a)"].map(seen), [false; 4]);
    }
}
