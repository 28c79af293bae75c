//! The verdict on a case: what the relay did beside what the HTTP library alone, nginx and HAProxy did.

use super::{
    answers::{EVIL_FIELD, NUMBER_FIELD, number_of},
    case::{Answer, Case, Sent},
    client::Seen,
};
use crate::testing::message::{Fields, Message};

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// The rule that is broken.
    pub(super) rule: &'static str,
    pub(super) what: String,
}

/// The rule about nginx and HAProxy.
pub(super) const LAXER: &str = "no request is forwarded that nginx and HAProxy refuse";

/// Fields of an answer that belong to the client's connection, or that the library leaves out where it leaves out trailers.
const OWN: [&str; 3] = ["connection", "transfer-encoding", "trailer"];
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
    let judged = judged(relay, library, &mut findings);
    requests(relay, library, judged, &mut findings);
    if peers.len() == 2 {
        laxer(case, relay, peers, &mut findings);
    }
    numbers(relay, library, &mut findings);
    answers(case, relay, library, judged, &mut findings);
    findings
}

/// How many answers are compared: up to the first that two clients could read differently, or that the relay refuses.
fn judged(relay: &Seen, library: &Seen, findings: &mut Vec<Finding>) -> usize {
    let mut judged = library.fault.as_ref().map_or(usize::MAX, |_| library.answers.len());
    for (number, own) in relay.answers.iter().enumerate().take(judged) {
        let other = library.answers.get(number);
        if own_code(own).is_none_or(|code| !code.starts_with("502"))
            || other.is_some_and(|other| own_code(other).is_some())
        {
            continue;
        }
        // Half of a head that is wrong already is refused, where the library waits for the rest.
        if let Some(other) = other {
            findings.push(finding(
                "the relay refuses no answer that the library passes on",
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

/// Whether an answer has these trailers of this name.
fn has_trailer(sent: Option<&Answer>, trailers: &Fields, name: &str) -> bool {
    let Some(sent) = sent else { return false };
    let text = sent.body.concat();
    let lines = text.split(|byte| *byte == b'\n').filter_map(|line| {
        let colon = memchr::memchr(b':', line)?;
        line[..colon].eq_ignore_ascii_case(name.as_bytes()).then(|| line[colon + 1..].trim_ascii())
    });
    trailers.get(name).is_some_and(|values| lines.eq(values.iter().map(Vec::as_slice)))
}

fn request_differences(own: &Message, other: &Message) -> Vec<String> {
    let mut differences = other.differences(own);
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
                let sent = number_of(own).and_then(|number| case.answers.get(number));
                let differences = answer_differences(sent, own, other);
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

fn answer_differences(sent: Option<&Answer>, own: &Message, other: &Message) -> Vec<String> {
    if let (Some(own), Some(other)) = (own_code(own), own_code(other)) {
        return if own == other { Vec::new() } else { vec![format!("{other} became {own}")] };
    }
    let plain = |message: &Message| {
        let mut plain = Message { before: Vec::new(), ..message.clone() };
        for name in OWN {
            plain.fields.remove(name);
        }
        // The library adds a date, and that of a plain answer is of its time.
        if sent
            .is_none_or(|sent| !sent.lines.iter().any(|line| line.to_ascii_lowercase().starts_with(b"date:")))
        {
            plain.fields.remove("date");
        }
        plain
    };
    let mut differences = plain(other).differences(&plain(own));
    // The library passes trailers on to those clients alone that say that they take them.
    differences.retain(|difference| {
        let name = difference.strip_prefix("new trailer ");
        !name.is_some_and(|name| has_trailer(sent, &own.trailers, name))
    });
    differences.extend(forbidden_trailers(own));
    differences
}
