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

/// What the relay does not pass on although the library does: the reason in its answer, and why that is right.
const STRICTER: &[(&str, &str)] = &[(
    "Content-Length",
    "the library passes on a length that it does not need, as it came; a client may need it",
)];

/// Whether an answer has a length several times. The relay sends it once (RFC 9110 8.6); the library passes on all, or breaks
/// off.
fn has_equal_lengths(answer: &Answer) -> bool {
    let head = answer.lines.concat().to_ascii_lowercase();
    let lengths = head.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(b"content-length:"));
    let lengths: Vec<_> = lengths.flat_map(|value| value.split(|byte| *byte == b',')).collect();
    let number = |value: &&[u8]| String::from_utf8_lossy(value).trim().parse::<u64>().ok();
    lengths.len() > 1
        && lengths.iter().map(number).all(|length| length.is_some() && length == number(&lengths[0]))
}

/// Whether a chunked answer has what the relay does not pass on: a trailer that frames, routes or is about the client, which
/// the library leaves out, or a size of more than 16 digits or 63 bits or with control characters behind it, which it writes
/// anew.
fn has_refused_chunk(answer: &Answer) -> bool {
    answer.body.iter().any(|part| {
        let part = part.to_ascii_lowercase();
        let is_named =
            |name: &&str| part.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.starts_with(b":"));
        let digits = part.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        NEVER_TRAILERS.iter().chain(&["content-encoding", "forwarded", "x-real-ip"]).any(is_named)
            || part.starts_with(b"x-forwarded-")
            || digits > 0
                && part.trim_ascii_end().iter().any(|byte| byte.is_ascii_control() && *byte != b'\t')
            || digits > 16
            || digits == 16 && part[0] >= b'8'
    })
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
        // Half of a head that is wrong already is refused, where the library waits for the rest. To HEAD the reason is not said.
        if other.is_some()
            && !own.body.is_empty()
            && !STRICTER.iter().any(|(reason, _)| has_reason(own, reason))
        {
            let other = other.map(ToString::to_string).unwrap_or_default();
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
    for (number, own) in relay.resource.requests.iter().enumerate() {
        let mut alike = 0;
        for ((_, seen), next) in peers.iter().zip(&mut next) {
            let later = &seen.resource.requests[*next..];
            // They do not know which hosts there are, and forward all.
            let found = later.iter().position(|other| target(own) == target(other) && own.body == other.body);
            alike += usize::from(found.is_some());
            *next += found.map_or(0, |found| found + 1);
        }
        // One that it has refused itself the others may have ended the connection for.
        if relay.answers.iter().take(number + 1).any(|answer| own_code(answer).is_some()) {
            return;
        }
        if alike == 0 && excused(case, own).is_none() {
            let text = format!("request {number}: {own}");
            findings.push(finding("no request is forwarded that nginx and HAProxy refuse", text));
        }
        // What follows one that was refused was not judged.
        if alike < peers.len() {
            return;
        }
    }
}

/// What nginx or HAProxy refuses although it is right, or no danger: where the other refuses another thing of the same
/// request, both refuse it. Lines in lower case have these.
const EXCUSED: &[(&str, &str)] = &[
    (
        " http://",
        "HAProxy compares the target's authority with Host; RFC 9112 3.2.2 has the target take precedence",
    ),
    ("#", "HAProxy refuses a fragment, which is removed here"),
    ("%00", "nginx refuses a path with NUL; it is the resource's to read"),
    ("upgrade:", "HAProxy refuses a switch to WebSocket without its key; the resource refuses it itself"),
    ("\t", "nginx takes blanks alone around a value; RFC 9110 5.5 knows tabs, too"),
];

/// Why a request that nginx and HAProxy both refuse, or read differently, is forwarded nevertheless.
fn excused(case: &Case, own: &Message) -> Option<&'static str> {
    // Of `/?x`, `?x`: an absolute target may have no path.
    let path = target(own).iter().skip_while(|byte| **byte != b'/').copied().collect::<Vec<_>>();
    let path = if path.starts_with(b"/?") { &path[1..] } else { &path[..] };
    let is_it = |request: &&Sent| memchr::memmem::find(&request.bytes(), path).is_some();
    let all = case.requests.iter().filter(is_it).flat_map(|request| &request.lines);
    let lines: Vec<_> = all.map(|line| line.to_ascii_lowercase()).collect();
    let has = |mark: &str| lines.iter().any(|line| memchr::memmem::find(line, mark.as_bytes()).is_some());
    EXCUSED.iter().find(|(mark, _)| has(mark)).map(|(_, why)| *why)
}

/// The method and the target without its host.
fn target(request: &Message) -> Vec<u8> {
    let text = String::from_utf8_lossy(&request.start).into_owned();
    let Some((method, target)) = text.split_once(' ') else { return request.start.clone() };
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
