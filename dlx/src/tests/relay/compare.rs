//! The verdict on a case: what the relay did beside what the HTTP library alone, nginx and HAProxy did.

use super::{
    answers::{EVIL_FIELD, NUMBER_FIELD, number_of},
    case::{Answer, Case, Sent},
    client::Seen,
};
use crate::testing::message::Message;

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// The rule that is broken.
    pub(super) rule: &'static str,
    pub(super) what: String,
}

/// The rule about nginx and HAProxy.
pub(super) const LAXER: &str = "no request is forwarded that nginx and HAProxy refuse";

/// Fields of an answer that belong to the client's connection, or that the library adds.
const OWN: [&str; 5] = ["connection", "keep-alive", "transfer-encoding", "date", "trailer"];
/// Trailers must not have these (RFC 9110 6.5.1): a recipient that merges them into the head reads another message.
const NEVER_TRAILERS: [&str; 9] = [
    "content-length",
    "transfer-encoding",
    "host",
    "connection",
    "te",
    "authorization",
    "cookie",
    "upgrade",
    "expect",
];

fn finding(rule: &'static str, what: impl Into<String>) -> Finding {
    Finding { rule, what: what.into() }
}

/// All that is wrong in what was seen. `peers`: nginx and HAProxy, if both are installed.
pub(super) fn judge(case: &Case, relay: &Seen, library: &Seen, peers: &[(&str, Seen)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    // Where the library says the same, it is no fault of the relay's.
    let kind = |fault: &str| fault.split("):").next().unwrap_or_default().to_owned();
    let faults = relay.faults().filter(|fault| !library.faults().any(|other| kind(other) == kind(fault)));
    findings.extend(faults.map(|fault| finding("nothing ambiguous goes out", fault)));
    if !relay.settled && library.settled {
        findings.push(finding("nothing stays in flight", "the client has left"));
    }
    let judged = judged(case, relay, library, &mut findings);
    requests(relay, library, judged, &mut findings);
    if peers.len() == 2 {
        laxer(case, relay, peers, &mut findings);
    }
    numbers(relay, library, &mut findings);
    answers(case, relay, library, judged, &mut findings);
    findings
}

/// Whether the library passes on an answer whose framing it does not read, because there is no body, or a length beside
/// chunks. The relay refuses a length that is no number, too large, or another than a second one, and HTTP/1.0 with a
/// transfer coding: a client may read them, and the same answer to GET is refused by both.
fn has_unread_framing(case: &Case, passed: &Message) -> bool {
    let Some(number) = number_of(passed) else { return false };
    let (Some(sent), Some(request)) = (case.answers.get(number), case.requests.get(number)) else {
        return false;
    };
    let bodiless =
        request.is_head() || [&b"204"[..], b"304"].iter().any(|status| passed.start.starts_with(status));
    let lengths = lengths(sent);
    let is_known = |length: &Option<u64>| length.is_some_and(|length| length <= i64::MAX as u64);
    let is_right = lengths.iter().all(|length| is_known(length) && *length == lengths[0]);
    let head = sent.lines.concat().to_ascii_lowercase();
    let has = |text: &[u8]| memchr::memmem::find(&head, text).is_some();
    (bodiless || passed.fields.contains_key("transfer-encoding")) && !is_right
        || bodiless && has(b"http/1.0 ") && has(b"transfer-encoding")
}

/// The lengths that an answer says it has, each of a list; `None` for one that is no number.
fn lengths(answer: &Answer) -> Vec<Option<u64>> {
    let head = answer.lines.concat().to_ascii_lowercase();
    let values = head.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(b"content-length:"));
    let values = values.flat_map(|value| value.split(|byte| *byte == b','));
    let digits = |value: &[u8]| {
        let text = String::from_utf8_lossy(value.trim_ascii()).into_owned();
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
    };
    values.map(digits).collect()
}

/// Whether an answer has a length several times. The relay sends it once (RFC 9110 8.6); the library passes on all, or breaks
/// off.
fn has_equal_lengths(answer: &Answer) -> bool {
    let lengths = lengths(answer);
    lengths.len() > 1 && lengths.iter().all(|length| length.is_some() && *length == lengths[0])
}

/// Whether a chunked answer has what the relay does not pass on: a trailer that frames, routes or is about the client, which
/// the library leaves out, or a size of more than 16 digits or 63 bits or with control characters behind it, which it writes
/// anew.
fn has_refused_chunk(answer: &Answer) -> bool {
    let head = answer.lines.concat().to_ascii_lowercase();
    let body = answer.body.concat();
    let mut rest = &body[..];
    if memchr::memmem::find(&head, b"transfer-encoding").is_none() {
        return false;
    }
    while let Some(end) = memchr::memchr(b'\n', rest) {
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        let digits: Vec<u8> = line.iter().copied().take_while(u8::is_ascii_hexdigit).collect();
        let odd = digits.len() > 16 || line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t');
        let size = u64::from_str_radix(&String::from_utf8_lossy(&digits), 16);
        match size {
            _ if odd => return true,
            Err(_) => return false,
            Ok(size) if size > i64::MAX as u64 => return true,
            Ok(0) => return rest[end + 1..].split(|byte| *byte == b'\n').any(is_refused_trailer),
            Ok(size) => rest = rest.get(end + 1 + size as usize + 2..).unwrap_or_default(),
        }
    }
    false
}

fn is_refused_trailer(line: &[u8]) -> bool {
    let line = line.to_ascii_lowercase();
    let is_named =
        |name: &&str| line.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.starts_with(b":"));
    NEVER_TRAILERS.iter().chain(&["content-encoding", "forwarded", "x-real-ip"]).any(is_named)
        || line.starts_with(b"x-forwarded-")
}

/// How many answers can be compared: one that the library passes on as it is, for two clients to read differently, or that
/// the relay refuses for a reason that is listed, ends the comparison.
fn judged(case: &Case, relay: &Seen, library: &Seen, findings: &mut Vec<Finding>) -> usize {
    let listed =
        case.answers.iter().position(|answer| has_equal_lengths(answer) || has_refused_chunk(answer));
    let ambiguous = library.fault.is_some().then_some(library.answers.len());
    let mut judged = listed.into_iter().chain(ambiguous).min().unwrap_or(usize::MAX);
    for (number, own) in relay.answers.iter().enumerate().take(judged) {
        let other = library.answers.get(number);
        if own_code(own).is_none_or(|code| !code.starts_with("502"))
            || other.is_some_and(|other| own_code(other).is_some())
        {
            continue;
        }
        // Half of a head that is wrong already is refused, where the library waits for the rest.
        if let Some(other) = other.filter(|other| !has_unread_framing(case, other)) {
            findings.push(finding(
                "the relay refuses only what is listed",
                format!("answer {number}: {own}\n    library {other}"),
            ));
        }
        judged = number;
        break;
    }
    judged
}

/// What the resource got.
fn requests(relay: &Seen, library: &Seen, judged: usize, findings: &mut Vec<Finding>) {
    let (own, other) = (&relay.resource, &library.resource);
    let count = own.requests.len().max(other.requests.len());
    for number in 0..count.min(judged.saturating_add(1)) {
        match (own.requests.get(number), other.requests.get(number)) {
            (Some(own), Some(other)) => {
                let differences = request_differences(own, other);
                if !differences.is_empty() {
                    let text =
                        format!("request {number}: {differences:?}\n    relay   {own}\n    library {other}");
                    findings.push(finding("the same request goes to the resource", text));
                }
            }
            (Some(own), None) => {
                findings.push(finding(
                    "the relay forwards nothing that the library does not",
                    format!("request {number}: {own}"),
                ));
            }
            (None, Some(other)) => {
                findings.push(finding(
                    "the relay forwards what the library does",
                    format!("request {number}: {other}"),
                ));
            }
            (None, None) => {}
        }
        if findings.iter().any(|finding| finding.rule.contains("forwards")) {
            return;
        }
    }
    // How far the library comes with a body that breaks off depends on how its bytes came.
    if judged < count || library.answers.iter().any(is_broken_off) {
        return;
    }
    for partial in &own.partial {
        let is_same = |other: &Message| {
            other.start == partial.start
                && (other.body.starts_with(&partial.body) || partial.body.starts_with(&other.body))
        };
        if !other.partial.iter().chain(&other.requests).any(is_same) {
            findings
                .push(finding("the relay begins no request that the library does not", partial.to_string()));
        }
    }
}

fn request_differences(own: &Message, other: &Message) -> Vec<String> {
    let mut differences = other.differences(own);
    // The library loses trailers.
    if other.trailers.is_empty() {
        differences.retain(|difference| !difference.starts_with("new trailer"));
    }
    differences.extend(forbidden_trailers(own));
    differences
}

fn forbidden_trailers(message: &Message) -> impl Iterator<Item = String> {
    NEVER_TRAILERS
        .iter()
        .filter(|name| message.trailers.contains_key(**name))
        .map(|name| format!("trailer {name}"))
}

/// Whether the relay's DLX takes a request that nginx and HAProxy both refuse, or read differently.
fn laxer(case: &Case, relay: &Seen, peers: &[(&str, Seen)], findings: &mut Vec<Finding>) {
    let mut next = vec![0; peers.len()];
    let mut sent = case.requests.iter();
    for (number, own) in relay.resource.requests.iter().enumerate() {
        let target = target(&own.start);
        let mut alike = 0;
        for ((_, seen), next) in peers.iter().zip(&mut next) {
            let later = &seen.resource.requests[*next..];
            // They do not know which hosts there are, and forward all.
            let found =
                later.iter().position(|other| target == self::target(&other.start) && own.body == other.body);
            alike += usize::from(found.is_some());
            *next += found.map_or(0, |found| found + 1);
        }
        // One that it has refused itself the others may have ended the connection for.
        if relay.answers.iter().take(number + 1).any(|answer| own_code(answer).is_some()) {
            return;
        }
        let sent = sent.find(|sent| target == self::target(&sent.start()));
        let excused = || sent.is_some_and(|sent| EXCUSED.iter().any(|(_, is_it)| is_it(sent)));
        if alike == 0 && !excused() {
            let text = format!("request {number}: {own}");
            findings.push(finding(LAXER, text));
        }
        // What follows one that was refused was not judged.
        if alike < peers.len() {
            return;
        }
    }
}

/// Why a request is right, and whether it is one.
type Excuse = (&'static str, fn(&Sent) -> bool);

/// What nginx or HAProxy refuses although it is right, or no danger. Where the other refuses the same request for another
/// thing, that alone would be no finding.
const EXCUSED: [Excuse; 5] = [
    (
        "HAProxy compares the target's authority with Host; RFC 9112 3.2.2 has the target take precedence",
        names_other_host,
    ),
    ("HAProxy refuses a fragment, which is removed here", |sent| sent.target().contains(&b'#')),
    (
        "nginx decodes the path and refuses NUL and what cannot be decoded; it is the resource's to read",
        |sent| {
            let target = sent.target();
            let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
            path.split(|byte| *byte == b'%').skip(1).any(|code| {
                !matches!(code, [high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit())
                    || code.starts_with(b"00")
            })
        },
    ),
    ("HAProxy refuses a switch to WebSocket without its key; the resource refuses it itself", |sent| {
        let upgrades = sent.values("upgrade");
        upgrades.iter().any(|value| value.trim_ascii().eq_ignore_ascii_case(b"websocket"))
            && sent.values("sec-websocket-key").is_empty()
    }),
    ("nginx takes blanks alone around a value that it reads; RFC 9110 5.5 knows tabs, too", |sent| {
        let is_padded = |value: &Vec<u8>| {
            let first = value.iter().find(|byte| **byte != b' ');
            let last = value.iter().rfind(|byte| !matches!(byte, b' ' | b'\r'));
            [first, last].contains(&Some(&b'\t'))
        };
        ["host", "content-length", "transfer-encoding"]
            .iter()
            .any(|name| sent.values(name).iter().any(is_padded))
    }),
];

/// Whether the target names another host than `Host` does, or HAProxy takes it to: up to the next `/`.
fn names_other_host(sent: &Sent) -> bool {
    let text = String::from_utf8_lossy(&sent.target()).into_owned();
    let Some((_, rest)) = text.split_once("://") else { return false };
    let authority = rest.split('/').next().unwrap_or_default();
    let host = sent.values("host").into_iter().next().unwrap_or_default();
    !text.starts_with('/') && !authority.as_bytes().eq_ignore_ascii_case(host.trim_ascii())
}

/// The method and the target without its host, of a first line without its version.
fn target(start: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(start).into_owned();
    let Some((method, target)) = text.split_once(' ') else { return start.to_vec() };
    let path = match target.split_once("://") {
        Some((_, rest)) if !target.starts_with('/') => rest.find(['/', '?']).map_or("/", |at| &rest[at..]),
        _ => target,
    };
    let path = path.split('#').next().unwrap_or_default();
    let slash = if path.starts_with('/') || path == "*" { "" } else { "/" };
    format!("{method} {slash}{path}").into_bytes()
}

/// Each answer that the client takes for the resource's is the answer to a later request than the one before.
fn numbers(relay: &Seen, library: &Seen, findings: &mut Vec<Finding>) {
    let mut last = None;
    let is_evil = |answer: &Message| answer.fields.contains_key(EVIL_FIELD);
    for (at, answer) in relay.answers.iter().enumerate() {
        // An answer of status 1xx has no body: what stands for one is the answer, to the library as well.
        if is_evil(answer) && !library.answers.get(at).is_some_and(is_evil) {
            findings.push(finding("no answer is made of what follows another", answer.to_string()));
        }
        let Some(number) = number_of(answer) else { continue };
        if last.is_some_and(|last| number <= last) {
            findings.push(finding("each answer is to its own request", answer.to_string()));
        }
        last = Some(number);
    }
}

/// What the client got.
fn answers(case: &Case, relay: &Seen, library: &Seen, judged: usize, findings: &mut Vec<Finding>) {
    for number in 0..relay.answers.len().max(library.answers.len()).min(judged) {
        match (relay.answers.get(number), library.answers.get(number)) {
            (Some(own), Some(other)) => {
                let differences = answer_differences(own, other);
                if !differences.is_empty() {
                    let text =
                        format!("answer {number}: {differences:?}\n    relay   {own}\n    library {other}");
                    findings.push(finding("the same answer goes to the client", text));
                    return;
                }
            }
            // Half of a head is refused as soon as it is seen to be wrong, or when all of it is there.
            (Some(own), None)
                if case.cut.is_some() && own_code(own).is_some_and(|code| code.starts_with('4')) =>
            {
                return;
            }
            (Some(own), None) => {
                findings.push(finding(
                    "the client gets no answer that the library does not give",
                    format!("answer {number}: {own}"),
                ));
                return;
            }
            // The client has ended its body, and its connection with that.
            (None, Some(other)) if is_broken_off(other) => return,
            (None, Some(other)) => {
                findings.push(finding(
                    "the client gets each answer that the library gives",
                    format!("answer {number}: {other}"),
                ));
                return;
            }
            (None, None) => {}
        }
    }
}

/// Whether this is the answer to a request whose body has no end; to HEAD it has no reason.
fn is_broken_off(answer: &Message) -> bool {
    let own = own_code(answer).is_some_and(|code| code.starts_with("400"));
    own && (answer.body.is_empty() || has_reason(answer, "its body ended with an error"))
}

fn has_reason(answer: &Message, reason: &str) -> bool {
    memchr::memmem::find(&answer.body, reason.as_bytes()).is_some()
}

/// The status and the code of an answer of the DLX's own: its reason may say it in other words.
fn own_code(answer: &Message) -> Option<String> {
    let json = answer.fields.get("content-type").is_some_and(|values| values[0] == b"application/json");
    let own = json && !answer.fields.contains_key(NUMBER_FIELD);
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    own.then(|| format!("{} {}", answer.start.escape_ascii(), body.split(',').next().unwrap_or_default()))
}

fn answer_differences(own: &Message, other: &Message) -> Vec<String> {
    if let (Some(own), Some(other)) = (own_code(own), own_code(other)) {
        return if own == other { Vec::new() } else { vec![format!("{other} became {own}")] };
    }
    let plain = |message: &Message| {
        let mut plain = Message { before: Vec::new(), ..message.clone() };
        // The library has reason phrases of its own.
        plain.start.truncate(3);
        for name in OWN {
            plain.fields.remove(name);
        }
        plain
    };
    let mut differences = plain(other).differences(&plain(own));
    // The library loses trailers and lengths of 304 that it has twice, and passes on lengths of 204 that are no numbers to it.
    let is_304 = own.start.starts_with(b"304");
    let is_204 = own.start.starts_with(b"204");
    differences.retain(|difference| {
        !(difference.starts_with("new trailer")
            || is_304 && difference == "new field content-length"
            || is_204 && difference == "lost field content-length")
    });
    differences.extend(forbidden_trailers(own));
    differences
}
