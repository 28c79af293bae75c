//! Host names, as annotations and namespace files give them.

/// A host name that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a host name, expected one without port and asterisk such as shop.example.com")]
pub(crate) struct InvalidHostName(String);

/// Checks a host name and gives it in lower case.
///
/// # Errors
///
/// It is none: with a port, with an asterisk, with characters that no name has.
pub(crate) fn parse(text: &str) -> Result<String, InvalidHostName> {
    let host = text.trim().trim_end_matches('.').to_ascii_lowercase();
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let is_valid = host.len() <= 253 && host.split('.').all(label);
    if is_valid { Ok(host) } else { Err(InvalidHostName(text.to_owned())) }
}

/// Reads the host annotation.
///
/// # Errors
///
/// One of the hosts is none.
pub(crate) fn parse_list(text: &str) -> Result<Vec<String>, InvalidHostName> {
    text.split([',', ' ', '\t', '\n']).filter(|host| !host.is_empty()).map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_checked() {
        assert_eq!(parse("Shop.Example.com.").unwrap(), "shop.example.com");
        for wrong in
            ["", "a..b", "*.a", "a:80", "a b", "-a", "a-", "a/b", "[::1]", "ä.example", &"a".repeat(64)]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
