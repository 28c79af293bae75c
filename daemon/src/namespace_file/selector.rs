//! Finds in a query of Prometheus's language what it rests on.

/// The series a query rests on.
#[derive(Debug, PartialEq)]
pub(super) struct Selected<'a> {
    /// The selector, as it stands: `http_requests_total{namespace="$namespace"}`.
    pub(super) series: &'a str,
    /// They only grow: the query takes their increase or rate.
    pub(super) counter: bool,
}

/// A piece of a query.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Token<'a> {
    /// A name, a keyword or a number.
    Word(&'a str),
    /// `{...}`.
    Matchers(&'a str),
    /// `[...]`, without the brackets.
    Range(&'a str),
    /// A string.
    Text,
    /// Any other character but blanks.
    Sign(char),
}

/// The selector that the query takes over `[$window]`; `None` where there is none, or more than one, or where it takes
/// something over another time: then what the query rests on cannot be told from its text.
pub(super) fn select(query: &str) -> Option<Selected<'_>> {
    let tokens = tokens(query)?;
    let mut found: Option<Selected<'_>> = None;
    for (place, token) in tokens.iter().enumerate() {
        let elsewhere = matches!(token, Token::Word("offset") | Token::Sign('@'))
            || matches!(token, Token::Range(range) if range.trim() != "$window");
        if elsewhere {
            return None;
        }
        if !matches!(token, Token::Range(_)) {
            continue;
        }
        let before = |back: usize| place.checked_sub(back).and_then(|place| tokens.get(place)).copied();
        let (series, width) = match (before(2), before(1)) {
            (Some(Token::Word(name)), Some(Token::Matchers(matchers))) => (join(query, name, matchers)?, 2),
            (_, Some(Token::Matchers(matchers))) => (matchers, 1),
            (_, Some(Token::Word(name))) => (name, 1),
            _ => return None,
        };
        let counter = before(width + 1) == Some(Token::Sign('('))
            && matches!(before(width + 2), Some(Token::Word("increase" | "rate" | "irate")));
        match &mut found {
            Some(other) if other.series == series => other.counter |= counter,
            Some(_) => return None,
            None => found = Some(Selected { series, counter }),
        }
    }
    found
}

/// From the beginning of `first` to the end of `last`, both of them parts of `whole`.
fn join<'a>(whole: &'a str, first: &str, last: &str) -> Option<&'a str> {
    let offset = |part: &str| (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize);
    whole.get(offset(first)?..offset(last)? + last.len())
}

/// The query in pieces; `None` where a string or a bracket does not end.
fn tokens(query: &str) -> Option<Vec<Token<'_>>> {
    let mut tokens = Vec::new();
    let mut rest = query;
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            '#' => (None, rest.find('\n').unwrap_or(rest.len())),
            '"' | '\'' | '`' => (Some(Token::Text), text(rest)?),
            '{' => {
                let length = closed(rest, '}')?;
                (Some(Token::Matchers(&rest[..length])), length)
            }
            '[' => {
                let length = closed(rest, ']')?;
                (Some(Token::Range(&rest[1..length - 1])), length)
            }
            _ if word(first) => {
                let length = rest.find(|c| !word(c)).unwrap_or(rest.len());
                (Some(Token::Word(&rest[..length])), length)
            }
            _ if first.is_whitespace() => (None, first.len_utf8()),
            _ => (Some(Token::Sign(first)), first.len_utf8()),
        };
        tokens.extend(token);
        rest = &rest[length..];
    }
    Some(tokens)
}

fn word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '$' | '.')
}

/// The length of the string at the beginning, its quotes included.
fn text(rest: &str) -> Option<usize> {
    let mut chars = rest.char_indices();
    let (_, quote) = chars.next()?;
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' if quote != '`' => drop(chars.next()?),
            _ if c == quote => return Some(at + c.len_utf8()),
            _ => {}
        }
    }
    None
}

/// The length of what a bracket opens at the beginning, both brackets included.
fn closed(rest: &str, close: char) -> Option<usize> {
    let mut at = 1;
    loop {
        let next = rest.get(at..)?.chars().next()?;
        at += match next {
            '"' | '\'' | '`' => text(&rest[at..])?,
            _ if next == close => return Some(at + 1),
            _ => next.len_utf8(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_query_rests_on() {
        for (query, series, counter) in [
            (
                r#"sum by (name) (increase(a_total{b="$namespace"}[$window]))"#,
                r#"a_total{b="$namespace"}"#,
                true,
            ),
            ("max by (name) (max_over_time(queue [$window]))", "queue", false),
            (r#"rate({__name__="a", b=~"x}]\"["}[ $window ])"#, r#"{__name__="a", b=~"x}]\"["}"#, true),
            ("increase(a:b_total [$window]) # not [5m]", "a:b_total", true),
            ("sum(increase(a {b='c'}[$window]))", "a {b='c'}", true),
            ("increase(a[$window]) / sum_over_time(a[$window])", "a", true),
            (
                r#"label_replace(irate(a[$window]), "name", "$1", "service", "([^[]*)") * on (name) group_left b"#,
                "a",
                true,
            ),
        ] {
            assert_eq!(select(query), Some(Selected { series, counter }), "{query}");
        }
        for query in [
            "a",
            "increase(a[5m])",
            "increase(a[$window]) + increase(a[5m])",
            "increase(a[$window]) + increase(b[$window])",
            "increase(a[$window] offset 1h)",
            "increase(a[$window] @ 1)",
            "max_over_time(rate(a[5m])[$window:1m])",
            "max_over_time((a)[$window])",
            "[$window]",
            "increase(a{b=\"c[$window])",
            "",
        ] {
            assert_eq!(select(query), None, "{query}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text: String, near in "[a{}\\[\\]\"'`\\\\$ window(#é\n]{0,20}") {
            let _ = (select(&text), select(&near));
        }
    }
}
