//! Host names, as annotations and namespace files give them.

use anyhow::ensure;

/// Checks a host name and gives it in lower case.
///
/// # Errors
///
/// It is none: with a port, with an asterisk, with characters that no name has.
pub(crate) fn parse(text: &str) -> scaler_types::Result<String> {
    let host = text.trim().trim_end_matches('.').to_ascii_lowercase();
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    ensure!(
        host.len() <= 253 && host.split('.').all(label),
        "{text:?} is no host name, expected one without port and asterisk such as shop.example.com"
    );
    Ok(host)
}

/// Reads the host annotation.
///
/// # Errors
///
/// One of the hosts is none.
pub(crate) fn parse_list(text: &str) -> Result<Vec<String>, String> {
    let hosts = text.split([',', ' ', '\t', '\n']).filter(|host| !host.is_empty());
    hosts.map(|host| parse(host).map_err(|error| error.to_string())).collect()
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
