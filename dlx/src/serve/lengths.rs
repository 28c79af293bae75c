//! Finding heads that tell two lengths.

const ENCODING: &[u8] = b"transfer-encoding:";
const LENGTH: &[u8] = b"content-length:";

/// Whether the bytes of one read hold a head with both lengths.
///
/// A head in several reads may be missed: hyper's own handling (the encoding counts, the length goes) is safe then too.
pub fn both(bytes: &[u8]) -> bool {
    // Most reads have no line of that name, and end here.
    let mut from = 0;
    while let Some(at) = line(&bytes[from..], ENCODING) {
        let at = from + at;
        let begin = bytes[..at].windows(4).rposition(|end| end == b"\r\n\r\n").map_or(0, |end| end + 2);
        let end =
            bytes[at..].windows(4).position(|end| end == b"\r\n\r\n").map_or(bytes.len(), |end| at + end + 2);
        let head = &bytes[begin..end];
        if is_head(head) && line(head, LENGTH).is_some() {
            return true;
        }
        from = end;
    }
    false
}

/// Whether it begins with a request line. (`begin` stands on the line break before it, or at the first byte.)
fn is_head(head: &[u8]) -> bool {
    let head = head.strip_prefix(b"\r\n").unwrap_or(head);
    let first = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let first = first.strip_suffix(b"\r").unwrap_or(first);
    first.ends_with(b" HTTP/1.1") || first.ends_with(b" HTTP/1.0")
}

/// Where a line begins that has this name, in any case.
fn line(bytes: &[u8], name: &[u8]) -> Option<usize> {
    let mut from = 0;
    // The hyphen: rarer in heads and bodies than any letter.
    let hyphen = name.iter().position(|byte| *byte == b'-')?;
    while let Some(at) = memchr::memchr(b'-', &bytes[from..]) {
        let at = from + at;
        from = at + 1;
        let Some(begin) = at.checked_sub(hyphen) else { continue };
        let is_it = bytes.get(begin..begin + name.len()).is_some_and(|own| own.eq_ignore_ascii_case(name));
        if is_it && begin > 0 && bytes[begin - 1] == b'\n' {
            return Some(begin);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::both;

    #[test]
    fn both_in_one_head_are_found_in_any_order_and_case() {
        assert!(both(b"POST / HTTP/1.1\r\nContent-Length: 3\r\ntransfer-ENCODING: chunked\r\n\r\n"));
        assert!(both(
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nX: a-b\r\ncontent-length: 3\r\n\r\n0\r\n\r\n"
        ));
        assert!(both(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: x\r\n\r\n"));
    }

    #[test]
    fn one_alone_or_apart_are_not() {
        assert!(!both(b"POST / HTTP/1.1\r\nContent-Length: 3\r\nX-Transfer-Encoding: chunked\r\n\r\n"));
        assert!(!both(
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n19\r\nContent-Length: 5\r\n\r\n"
        ));
        assert!(!both(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcPOST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"));
        assert!(!both(b"multipart\r\n\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"));
        assert!(!both(b""));
    }
}
