//! Rewrites heads: removes what belongs to one connection, and adds what a proxy has to add.

use crate::identify::is_about_client;
use bytes::{Bytes, BytesMut};
use daemon::settings::ForwardedHeaders;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Uri, header,
    uri::{Authority, PathAndQuery},
};

/// Hop-by-hop fields (RFC 9110 7.6.1), besides those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
];

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Fields for framing and routing: `Connection` must not remove them.
const NEVER_NAMED: [HeaderName; 5] =
    [header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::AUTHORIZATION, header::VIA];

/// Copies the parts of the head that lie in the connection's read buffer. As long as they do, hyper needs another buffer
/// of 8 KiB for what comes next.
pub(crate) fn unpin<B>(request: &mut Request<B>) {
    if let Some(uri) = copied(request.uri()) {
        *request.uri_mut() = uri;
    }
    let headers = request.headers_mut();
    let mut all = BytesMut::with_capacity(headers.values().map(HeaderValue::len).sum());
    headers.values().for_each(|value| all.extend_from_slice(value.as_bytes()));
    let mut all = all.freeze();
    for value in headers.values_mut() {
        let sensitive = value.is_sensitive();
        // It was a valid value before.
        if let Ok(mut copy) = HeaderValue::from_maybe_shared(all.split_to(value.len())) {
            copy.set_sensitive(sensitive);
            *value = copy;
        }
    }
}

/// The same URI in its own memory. Part by part: as one text, `*` would become part of the host.
fn copied(uri: &Uri) -> Option<Uri> {
    let mut parts = uri.clone().into_parts();
    parts.authority = match uri.authority() {
        Some(authority) => {
            Some(Authority::from_maybe_shared(Bytes::copy_from_slice(authority.as_str().as_bytes())).ok()?)
        }
        None => None,
    };
    parts.path_and_query = match uri.path_and_query() {
        Some(path) => {
            Some(PathAndQuery::from_maybe_shared(Bytes::copy_from_slice(path.as_str().as_bytes())).ok()?)
        }
        None => None,
    };
    Uri::from_parts(parts).ok()
}

/// Removes hop-by-hop fields.
pub(crate) fn strip(headers: &mut HeaderMap) {
    // Most messages have none.
    if let Some(first) = headers.get(header::CONNECTION) {
        let plain = first.as_bytes().eq_ignore_ascii_case(b"keep-alive")
            || first.as_bytes().eq_ignore_ascii_case(b"close");
        if !plain || headers.get_all(header::CONNECTION).iter().nth(1).is_some() {
            for name in named(headers) {
                headers.remove(name);
            }
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    if headers.remove(header::TRANSFER_ENCODING).is_some() {
        // Its length did not count (RFC 9112 6.3), and must not count for the body as it is sent on.
        headers.remove(header::CONTENT_LENGTH);
    }
}

/// Whether the sender accepts trailers.
pub(crate) fn takes_trailers(headers: &HeaderMap) -> bool {
    let mut words =
        headers.get_all(header::TE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    words.any(|word| word.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// Joins the `Cookie` fields that HTTP/2 may split (RFC 9113 8.2.3): HTTP/1 has one.
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_some() {
        let crumbs: Vec<_> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
        // Valid values, joined, are valid.
        if let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
            headers.insert(header::COOKIE, whole);
        }
    }
}

/// Whether the only framing of the message is a length.
pub(crate) fn says_length(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let length = lengths.next().and_then(|length| length.to_str().ok());
    length.is_some_and(|length| !length.starts_with('+') && length.parse::<u64>().is_ok())
        && lengths.next().is_none()
}

/// The fields that `Connection` names.
fn named(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(header::CONNECTION).iter();
    let names = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let names = names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok());
    names.filter(|name| may_be_named(name.as_str(), name.as_str().as_bytes())).collect()
}

/// Whether a field has the name `word`, a word of `Connection`, and may be removed because of it.
pub(crate) fn may_be_named(name: &str, word: &[u8]) -> bool {
    name.as_bytes().eq_ignore_ascii_case(word)
        && !NEVER_NAMED.iter().any(|never| name.eq_ignore_ascii_case(never.as_str()))
        && !is_about_client(name)
}

/// Whether a field belongs to one connection.
pub(crate) fn is_hop_by_hop(name: &str) -> bool {
    // Compared by their lengths first: most fields are none of these.
    matches!(name.len(), 2 | 7 | 10 | 14 | 16)
        && HOP_BY_HOP.iter().any(|own| name.eq_ignore_ascii_case(own.as_str()))
}

/// Passes on, extends or replaces the headers about the client.
pub(crate) fn forwarded(headers: &mut HeaderMap, peer: &HeaderValue, how: ForwardedHeaders) {
    match how {
        ForwardedHeaders::Preserve => {
            let named = [&X_FORWARDED_FOR, &header::FORWARDED, &X_REAL_IP];
            if !named.into_iter().any(|name| headers.contains_key(name)) {
                headers.insert(X_FORWARDED_FOR, peer.clone());
            }
            return;
        }
        ForwardedHeaders::Append => {}
        ForwardedHeaders::Replace => {
            let names: Vec<_> =
                headers.keys().filter(|name| is_about_client(name.as_str())).cloned().collect();
            for name in names {
                headers.remove(name);
            }
        }
    }
    let before: Vec<_> = headers.get_all(X_FORWARDED_FOR).iter().map(HeaderValue::as_bytes).collect();
    let chain = match before.as_slice() {
        [] => Some(peer.clone()),
        // Valid values, joined, are valid.
        before => HeaderValue::from_bytes(&[before, &[peer.as_bytes()]].concat().join(&b", "[..])).ok(),
    };
    if let Some(chain) = chain {
        headers.insert(X_FORWARDED_FOR, chain);
    }
    if let Some(host) = headers.get(header::HOST).cloned() {
        headers.entry(X_FORWARDED_HOST).or_insert(host);
    }
    headers.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
}

/// Writes the fields of a request's head: those that came, with the ones about its client passed on, extended or replaced as
/// `how` says. `host` is the request's host, `peer` the client's address.
pub(crate) fn write_fields<'f, I: Iterator<Item = (&'f str, &'f [u8])>>(
    out: &mut Vec<u8>,
    fields: impl Fn() -> I,
    host: Option<&[u8]>,
    (how, peer): (ForwardedHeaders, &[u8]),
) {
    let mut has = AboutClient::default();
    for (name, value) in fields() {
        let kept = match how {
            ForwardedHeaders::Preserve => {
                has.note(name);
                true
            }
            ForwardedHeaders::Append => {
                has.note(name);
                !is_forwarded_for(name)
            }
            ForwardedHeaders::Replace => !is_about_client(name),
        };
        if kept {
            write_field(out, name, value);
        }
    }
    if how == ForwardedHeaders::Preserve {
        if !has.address {
            write_field(out, "X-Forwarded-For", peer);
        }
        return;
    }
    out.extend_from_slice(b"X-Forwarded-For: ");
    if how == ForwardedHeaders::Append {
        for (_, value) in fields().filter(|(name, _)| is_forwarded_for(name)) {
            out.extend_from_slice(value);
            out.extend_from_slice(b", ");
        }
    }
    out.extend_from_slice(peer);
    out.extend_from_slice(b"\r\n");
    if let Some(host) = host.filter(|_| !has.host) {
        write_field(out, "X-Forwarded-Host", host);
    }
    if !has.proto {
        write_field(out, "X-Forwarded-Proto", b"http");
    }
}

/// Writes a field.
pub(crate) fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Which fields about its client a request has.
#[derive(Debug, Default)]
struct AboutClient {
    /// One with its address.
    address: bool,
    host: bool,
    proto: bool,
}

// === impl AboutClient ===

impl AboutClient {
    fn note(&mut self, name: &str) {
        match name.len() {
            9 if name.eq_ignore_ascii_case("x-real-ip") => self.address = true,
            9 if name.eq_ignore_ascii_case("forwarded") => self.address = true,
            15 if is_forwarded_for(name) => self.address = true,
            16 if name.eq_ignore_ascii_case("x-forwarded-host") => self.host = true,
            17 if name.eq_ignore_ascii_case("x-forwarded-proto") => self.proto = true,
            _ => {}
        }
    }
}

fn is_forwarded_for(name: &str) -> bool {
    name.eq_ignore_ascii_case("x-forwarded-for")
}

/// How often `Via` has this mark.
pub(crate) fn marks(headers: &HeaderMap, mark: &HeaderValue) -> usize {
    let values = headers.get_all(header::VIA).iter();
    values.map(|value| count_marks(value.as_bytes(), mark.as_bytes())).sum()
}

/// How often one value of `Via` has this mark.
pub(crate) fn count_marks(via: &[u8], mark: &[u8]) -> usize {
    let own = pseudonym(mark);
    via.split(|byte| *byte == b',').filter(|hop| pseudonym(hop) == own).count()
}

/// `scaler-1` of `1.1 scaler-1 (comment)`.
fn pseudonym(hop: &[u8]) -> Option<&[u8]> {
    hop.split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty()).nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identify::address;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
        }
        headers
    }

    fn peer() -> HeaderValue {
        address("[::ffff:192.0.2.1]:5".parse().unwrap())
    }

    /// No part lies in the read buffer any more, and the text is the same.
    #[test]
    fn a_head_copied_from_its_buffer_is_equal() {
        let buffer = bytes::Bytes::from_static(b"/a?b=c%20d;demo.localhost;\xff secret;");
        let field = |from, to| HeaderValue::from_maybe_shared(buffer.slice(from..to)).unwrap();
        let mut secret = field(26, 34);
        secret.set_sensitive(true);
        let uri = Uri::from_maybe_shared(buffer.slice(0..10)).unwrap();
        let mut request = Request::builder().uri(uri).body(()).unwrap();
        request.headers_mut().append("host", field(11, 25));
        request.headers_mut().append("x-two", secret);
        request.headers_mut().append("x-two", HeaderValue::from_static(""));
        let before = request.headers().clone();
        unpin(&mut request);
        assert_eq!(request.uri(), "/a?b=c%20d");
        assert_eq!(*request.headers(), before);
        assert!(request.headers()["x-two"].is_sensitive());
        let read_into = buffer.as_ptr_range();
        assert!(request.headers().values().all(|value| !read_into.contains(&value.as_bytes().as_ptr())));
        assert!(!read_into.contains(&request.uri().path().as_ptr()));
    }

    /// As HTTP/2 sends it: scheme, authority and `*`.
    #[test]
    fn an_asterisk_does_not_run_into_the_host() {
        let parts = Uri::builder().scheme("http").authority("a.test").path_and_query("*");
        let mut request = Request::options(parts.build().unwrap()).body(()).unwrap();
        unpin(&mut request);
        assert_eq!(request.uri().authority().unwrap(), "a.test");
        assert_eq!(request.uri().path_and_query().unwrap(), "*");
    }

    #[test]
    fn split_cookies_are_joined() {
        let mut own =
            headers(&[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2; c=3"), ("cookie", "d=\"4\"")]);
        join_cookies(&mut own);
        assert_eq!(own, headers(&[("cookie", "a=1; b=2; c=3; d=\"4\""), ("x", "y")]));
    }

    #[test]
    fn fields_named_by_connection_are_removed() {
        let mut own = headers(&[
            ("connection", "keep-alive, X-Private"),
            ("connection", "close, te"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("proxy-connection", "close"),
            ("x-kept", "1"),
        ]);
        strip(&mut own);
        assert_eq!(own, headers(&[("x-kept", "1")]));
    }

    #[test]
    fn a_length_beside_chunks_is_removed() {
        let lengths = [("transfer-encoding", "chunked"), ("content-length", "3")];
        for connection in [&[][..], &[("connection", "transfer-encoding")]] {
            let mut own = headers(&[connection, &lengths].concat());
            strip(&mut own);
            assert_eq!(own, headers(&[]), "{connection:?}");
        }
    }

    #[test]
    fn connection_cannot_remove_framing_and_routing_fields() {
        let mut own = headers(&[
            ("connection", "host, content-length, x-forwarded-for, via"),
            ("host", "a"),
            ("content-length", "0"),
            ("via", "1.1 b"),
        ]);
        strip(&mut own);
        assert_eq!(own, headers(&[("host", "a"), ("content-length", "0"), ("via", "1.1 b")]));
    }

    #[test]
    fn client_headers_are_preserved_appended_or_replaced() {
        let came = [
            ("host", "a.example"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-for", "10.0.0.2"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-client-cert", "evil"),
            ("x_forwarded_for", "10.0.0.1"),
            ("x_real-ip", "10.0.0.1"),
            ("forwarded", "for=10.0.0.1"),
            ("x-forwarder", "kept"),
            ("x-real-ip-kept", "kept"),
        ];
        let after = |how| {
            let mut own = headers(&came);
            forwarded(&mut own, &peer(), how);
            own
        };
        assert_eq!(after(ForwardedHeaders::Preserve), headers(&came));
        let mut appended = headers(&came);
        appended.insert("x-forwarded-for", HeaderValue::from_static("10.0.0.1, 10.0.0.2, 192.0.2.1"));
        appended.insert("x-forwarded-host", HeaderValue::from_static("a.example"));
        assert_eq!(after(ForwardedHeaders::Append), appended);
        let replaced = headers(&[
            ("host", "a.example"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-host", "a.example"),
            ("x-forwarded-proto", "http"),
            ("x-forwarder", "kept"),
            ("x-real-ip-kept", "kept"),
        ]);
        assert_eq!(after(ForwardedHeaders::Replace), replaced);
    }

    /// The peer's address is added only if no header is about the client.
    #[test]
    fn a_client_without_headers_is_identified_by_its_address() {
        for (original, added) in [
            (None, true),
            (Some(("x-forwarded-proto", "https")), true),
            (Some(("x-forwarded-for", "10.0.0.1")), false),
            (Some(("forwarded", "for=10.0.0.1")), false),
            (Some(("x-real-ip", "10.0.0.1")), false),
        ] {
            let mut own = headers(original.as_slice());
            forwarded(&mut own, &peer(), ForwardedHeaders::Preserve);
            let mut expected = headers(original.as_slice());
            if added {
                expected.insert(X_FORWARDED_FOR, peer());
            }
            assert_eq!(own, expected, "{original:?}");
        }
    }

    #[test]
    fn marks_are_counted_among_other_hops() {
        let mark = HeaderValue::from_static("1.1 scaler-1");
        let of = |via: &[(&str, &str)]| marks(&headers(via), &mark);
        assert_eq!(of(&[("via", "1.0 fred, 1.1 scaler-1 (x)")]), 1);
        assert_eq!(of(&[("via", "1.1 scaler-1,1.1 scaler-1"), ("via", "2 scaler-1")]), 3);
        assert_eq!(of(&[("via", "1.1 scaler-10, 1.1 scaler, scaler-1")]), 0);
        assert_eq!(of(&[]), 0);
    }
}
