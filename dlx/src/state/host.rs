//! Host names as they are compared: lower case, without port and without the trailing dot.

/// The longest host name there is (RFC 1035), and room for a port.
const MAX_HOST_LENGTH: usize = 262;

/// Normalizes a host that a plugin lists for comparison.
pub(crate) fn normalize(host: &mut String) {
    if let Some(form) = lookup_form(host, &mut [0; MAX_HOST_LENGTH]) {
        let form = form.to_owned();
        *host = form;
    }
}

/// A `Host` or `:authority` in the form for comparison; `None` if it is no host.
pub(crate) fn lookup_form<'a>(authority: &'a str, buffer: &'a mut [u8; MAX_HOST_LENGTH]) -> Option<&'a str> {
    let host = without_port(authority)?;
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.is_empty() || host.len() > MAX_HOST_LENGTH || !host.bytes().all(is_host_byte) {
        return None;
    }
    if !host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Some(host);
    }
    let lower = &mut buffer[..host.len()];
    lower.copy_from_slice(host.as_bytes());
    lower.make_ascii_lowercase();
    std::str::from_utf8(lower).ok()
}

/// Whether a `Host` or `:authority` is a host.
pub(crate) fn is_host(authority: &str) -> bool {
    lookup_form(authority, &mut [0; MAX_HOST_LENGTH]).is_some()
}

fn without_port(authority: &str) -> Option<&str> {
    if authority.starts_with('[') {
        let end = authority.find(']')?;
        let (host, rest) = authority.split_at(end + 1);
        return (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port)).then_some(host);
    }
    match authority.split_once(':') {
        None => Some(authority),
        Some((host, port)) => is_port(port).then_some(host),
    }
}

fn is_port(text: &str) -> bool {
    text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A character of a host (RFC 3986 3.2.2), user information excluded.
fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=[]:".contains(&byte) || !byte.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(authority: &str) -> Option<String> {
        lookup_form(authority, &mut [0; MAX_HOST_LENGTH]).map(str::to_owned)
    }

    #[test]
    fn one_form_for_all_spellings() {
        for spelling in
            ["a.example", "A.Example", "a.example.", "a.example:80", "A.EXAMPLE.:8090", "a.example:"]
        {
            assert_eq!(form(spelling).as_deref(), Some("a.example"), "{spelling}");
        }
        assert_eq!(form("[::1]:80").as_deref(), Some("[::1]"));
        assert_eq!(form("[FE80::A]").as_deref(), Some("[fe80::a]"));
    }

    #[test]
    fn invalid_hosts_are_refused() {
        let long = "a".repeat(300);
        for wrong in
            ["", ".", ":80", "a:b", "a:80:80", "[::1", "[::1]x", "a b", "user@a", "a/b", "a:123456", &long]
        {
            assert_eq!(form(wrong), None, "{wrong}");
        }
    }
}
