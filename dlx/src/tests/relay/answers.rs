//! Answers from a grammar, and what is wrong with them. Each says in `X-Answer` which request it answers.

use super::{
    case::{Answer, Case, Rng, Sent},
    requests::{chunks, last, latin, spoil_byte, spoil_chunks},
};
use crate::testing::message::Message;

/// An answer that no request asked for: it must never be taken for one.
const EVIL: &str = "HTTP/1.1 200 OK\r\nX-Evil: 1\r\nContent-Length: 4\r\n\r\nevil";
/// Its value marks what follows an answer.
pub(super) const EVIL_FIELD: &str = "x-evil";
/// The number of the request that is answered; in the line `#` until then.
pub(super) const NUMBER_FIELD: &str = "x-answer";
pub(super) const NUMBER_LINE: &str = "X-Answer: #";

const STATUS: &[&str] = &[
    "HTTP/1.1 200 OK",
    "HTTP/1.1 200 OK",
    "HTTP/1.1 200 OK",
    "HTTP/1.1 404 Not Found",
    "HTTP/1.1 500 Oh",
    "HTTP/1.1 204 No Content",
    "HTTP/1.1 304 Not Modified",
    "HTTP/1.1 206 Partial Content",
    "HTTP/1.1 205 Reset Content",
    "HTTP/1.1 301 Moved",
    "HTTP/1.1 426 Upgrade Required",
    "HTTP/1.1 299 Fine, thanks",
    "HTTP/1.1 799 Odd",
    "HTTP/1.1 200 ",
    "HTTP/1.1 200 Sch\u{f6}n",
    "HTTP/1.0 200 OK",
    "HTTP/1.0 404 No",
];
const ODD_STATUS: &[&str] = &[
    "HTTP/1.1 200",
    "HTTP/1.1  200 OK",
    "HTTP/1.1\t200 OK",
    "HTTP/1.1 20 OK",
    "HTTP/1.1 2000 OK",
    "HTTP/1.1 099 OK",
    "HTTP/1.1 000 OK",
    "HTTP/1.1 999 OK",
    "HTTP/1.1 +20 OK",
    "HTTP/1.1 2x0 OK",
    "HTTP/1.1 -20 OK",
    "HTTP/1.2 200 OK",
    "HTTP/2.0 200 OK",
    "HTTP/2 200 OK",
    "HTTP/0.9 200 OK",
    "http/1.1 200 OK",
    "HTTP/1.1 101 Switching Protocols",
    "HTTP/1.1 100 Continue",
    "HTTP/1.1 199 Odd",
    "ICY 200 OK",
    "HTTP/1.1",
    "",
    "200 OK",
    "HTTP/1.1 200 O\rK",
    "HTTP/1.1 200 O\nK",
    "HTTP/1.1 200 \0",
    "HTTP/1.1 200 \u{7f}",
    "HTTP/1.1 200 \u{1}",
    "HTTP/1.1 200OK",
    " HTTP/1.1 200 OK",
    "HTTP/1.1 200\tOK",
    "HTTP/1.1 2 0 OK",
    "HTTP/11 200 OK",
    "GET / HTTP/1.1",
    "HTTP/1.1 \u{660}00 OK",
];
const BEFORE: &[&str] = &[
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
    "HTTP/1.1 102 Processing\r\n\r\n",
    "HTTP/1.1 199 X\r\n\r\n",
    "HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\n",
    "HTTP/1.0 100 Continue\r\n\r\n",
    "HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\n",
    "HTTP/1.1 100 Continue\n\n",
    "HTTP/1.1 103 X\r\nX : y\r\n\r\n",
    "HTTP/1.1 103 X\r\nConnection: close, x-own\r\nX-Own: 1\r\n\r\n",
    "HTTP/1.1 103\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
];
const FIELDS: &[&str] = &[
    "Content-Type: text/plain",
    "Set-Cookie: a=1\r\nSet-Cookie: b=2",
    "X-Empty:",
    "X-Latin: \u{e9}\u{ff}",
    "x_under: 1",
    "Connection: close",
    "Connection: keep-alive",
    "Connection: Keep-Alive, X-Own\r\nX-Own: 1",
    "Connection: content-length",
    "Connection:",
    "Connection: transfer-encoding, etag",
    "Keep-Alive: timeout=5, max=1",
    "Keep-Alive: timeout=0",
    "Proxy-Connection: close",
    "Upgrade: h2c",
    "Connection: upgrade\r\nUpgrade: websocket",
    "Trailer: X-Sum",
    "Date: Sun, 29 Nov 2026 12:00:00 GMT",
    "Server: x",
    "Via: 1.1 inner",
    "Age: 1",
    "ETag: \"a\"",
    "Vary: *",
    "Location: /x",
    "Retry-After: 1",
    "TE: trailers",
    "Content-Encoding: gzip",
    "Proxy-Authenticate: Basic",
    "Content-Range: bytes 0-1/9",
];
const ODD_FIELDS: &[&str] = &[
    "X : y",
    " X: y",
    "\tX: y",
    ": y",
    "X",
    "X\0: y",
    "X: \0",
    "X: \u{1}",
    "X: \u{7f}",
    "X: a\rb",
    "X: a\nb",
    "\u{fc}: y",
    "X: y\r\n folded",
    "X: y\r\n\tfolded",
    "X: y\n folded",
    "X: y\r\n ",
    "(X): y",
    "X@: y",
    "X: y\r",
    " ",
    "Content-Length : 5",
    " Content-Length: 5",
    "Transfer-Encoding : chunked",
    "Content_Length: 5",
    "HTTP/1.1 200 OK",
    "X: y\r\n Content-Length: 5",
    "Connection: close\0",
    "Connection: close, keep-alive",
    "X: \u{b}",
    "Transfer-Encoding: chunked\nX: y",
];
/// `N` is the length of the body.
const LENGTHS: &[&str] = &[
    "Content-Length: +N",
    "Content-Length: -N",
    "Content-Length: 0xN",
    "Content-Length: N,N",
    "Content-Length: N, N",
    "Content-Length: N, 5",
    "Content-Length: 0N",
    "Content-Length: 00000000000000000000000N",
    "Content-Length:",
    "Content-Length: x",
    "Content-Length: Nx",
    "Content-Length: N\r\nContent-Length: N",
    "Content-Length: N\r\nContent-Length: 0",
    "Content-Length: 0\r\nContent-Length: N",
    "Content-Length: N\r\nContent-Length: +N",
    "Content-Length: N\r\nContent-Length:",
    "Content-Length: N\r\nContent-Length: 0N",
    "Content-Length: 9223372036854775807",
    "Content-Length: 9223372036854775808",
    "Content-Length: 18446744073709551615",
    "Content-Length: 18446744073709551616",
    "Content-Length: 1844674407370955161N",
    "Content-Length: 999999999999999999999999",
    "Content-Length: N\0",
    "Content-Length: N ",
    "Content-Length:\tN",
    "content-length:N",
    "Content-Length: N N",
    "Content-Length: N;",
    "Content-Length: N.0",
    "Content-Length: N\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nContent-Length: N",
    "Content-Length: N\r\nTransfer-Encoding: identity",
    "Content-Length:\r\n N",
    "Content-Length: N\u{b}",
    "Content-Length: 1_N",
];
const CODINGS: &[&str] = &[
    "Transfer-Encoding: Chunked",
    "transfer-encoding:chunked",
    "Transfer-Encoding: chunked ",
    "Transfer-Encoding: chunked,",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: gzip",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: identity",
    "Transfer-Encoding:",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding: \"chunked\"",
    "Transfer-Encoding: chunked;q=1",
    "Transfer-Encoding: chunked\0",
    "Transfer-Encoding: \u{b}chunked",
    "Transfer-Encoding:\r\n chunked",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
];
const ENDS: &[&str] = &["\n", "\r", "\n\r", "\r\r\n", "", " \r\n", "\0\r\n", "\r\n ", "\n\n", "\r\n\r\n"];
const AFTER: &[&str] = &[
    EVIL,
    EVIL,
    EVIL,
    EVIL,
    "\r\n",
    "\n",
    "x",
    "\0",
    "HTTP/1.1 ",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "0\r\n\r\n",
    " ",
];
const BODIES: &[&str] = &["abcde", EVIL, "a", "\r\n", "\0\u{1}\u{ff}", "0\r\n\r\n"];

/// The number of the request that an answer says it answers.
pub(super) fn number_of(answer: &Message) -> Option<usize> {
    let values = answer.fields.get(NUMBER_FIELD)?;
    String::from_utf8_lossy(values.first()?).parse().ok()
}

fn line(text: &str) -> Vec<u8> {
    [&latin(text)[..], b"\r\n"].concat()
}

/// The case of a seed.
pub(super) fn generate(seed: u64) -> Case {
    let mut rng = Rng::new(seed);
    let requests: Vec<_> = (0..2 + rng.below(2)).map(|number| request(&mut rng, number)).collect();
    let wrong = rng.below(requests.len());
    let mut in_turn = rng.chance(70);
    let answers = requests
        .iter()
        .enumerate()
        .map(|(number, request)| {
            let mut answer = valid(&mut rng, request.is_head());
            if number == wrong {
                for _ in 0..1 + rng.below(2) {
                    spoil(&mut rng, &mut answer);
                }
            }
            if !answer.after.is_empty() && rng.chance(30) {
                answer.late = true;
                // The next request comes when it is there.
                in_turn = true;
            }
            answer
        })
        .collect();
    let mut case = Case { requests, answers, in_turn, own_port: rng.chance(25), pieces: None, cut: None };
    case.requests.push(last());
    case
}

/// A plain request.
fn request(rng: &mut Rng, number: usize) -> Sent {
    let method = rng.pick(&["GET", "GET", "GET", "HEAD", "POST", "OPTIONS"]);
    let mut lines = vec![line(&format!("{method} /{number} HTTP/1.1")), line("Host: a.test")];
    if rng.chance(20) {
        lines.push(line("TE: trailers"));
    }
    let mut body = Vec::new();
    if method == "POST" {
        match rng.chance(70) {
            true => {
                body.push(vec![b'x'; [0, 5, 3000][rng.below(3)]]);
                lines.push(line(&format!("Content-Length: {}", body[0].len())));
            }
            false => {
                lines.push(line("Transfer-Encoding: chunked"));
                body = chunks(rng);
            }
        }
    }
    lines.push(b"\r\n".to_vec());
    Sent { lines, body }
}

/// A valid answer.
fn valid(rng: &mut Rng, is_head: bool) -> Answer {
    let mut answer = Answer { pieces: rng.chance(40).then(|| rng.next()), ..Answer::default() };
    if rng.chance(12) {
        let before = rng.below(3);
        answer.lines.push(latin(BEFORE[before]));
    }
    let status = rng.pick(STATUS);
    answer.lines.push(line(status));
    answer.lines.push(line(NUMBER_LINE));
    for _ in 0..rng.below(4) {
        let field = line(rng.pick(FIELDS));
        answer.lines.push(field);
    }
    if rng.chance(3) {
        let most = [70, 200, 1100][rng.below(3)];
        answer.lines.extend((0..most).map(|number| line(&format!("X-{number}: {number}"))));
    }
    if rng.chance(3) {
        let long = [4_000, 16_300, 65_000, 400_000][rng.below(4)] + rng.below(1000);
        answer.lines.push(line(&format!("X-Long: {}", "x".repeat(long))));
    }
    let bodiless = is_head || status.contains(" 204") || status.contains(" 304");
    match rng.below(10) {
        _ if bodiless && rng.chance(50) => {}
        0..5 => {
            let mut body = latin(rng.pick(BODIES));
            if rng.chance(8) {
                body = vec![b'x'; rng.below(200_000)];
            }
            if !status.contains(" 204") {
                answer.lines.push(line(&format!("Content-Length: {}", body.len())));
            }
            answer.body.push(body);
        }
        5..9 if !status.starts_with("HTTP/1.0") && !status.contains(" 204") => {
            answer.lines.push(line("Transfer-Encoding: chunked"));
            answer.body = chunks(rng);
        }
        _ => {
            answer.body.push(latin(rng.pick(BODIES)));
            answer.closes = true;
        }
    }
    if bodiless {
        answer.body.clear();
    }
    answer.early = rng.chance(8);
    answer.closes |= rng.chance(8);
    answer.lines.push(b"\r\n".to_vec());
    answer
}

/// Makes something wrong, or unusual.
fn spoil(rng: &mut Rng, answer: &mut Answer) {
    let is_length = |line: &Vec<u8>| line.to_ascii_lowercase().starts_with(b"content-length");
    let is_coding = |line: &Vec<u8>| line.to_ascii_lowercase().starts_with(b"transfer-encoding");
    let status = answer
        .lines
        .iter()
        .position(|line| line.windows(2).any(|end| end == b"\r\n") && !line.ends_with(b"\r\n\r\n"));
    let first = status.unwrap_or(0);
    let body: usize = answer.body.iter().map(Vec::len).sum();
    let inside = |rng: &mut Rng, answer: &Answer| {
        (first + 1 + rng.below(answer.lines.len() - first)).min(answer.lines.len() - 1)
    };
    match rng.below(18) {
        0 => answer.lines[first] = line(rng.pick(ODD_STATUS)),
        1 => {
            let before = latin(rng.pick(BEFORE));
            answer.lines.insert(0, before);
        }
        2 => {
            let before = latin(rng.pick(&["\r\n", "\n", " ", "\0", "x", "\r\n\r\n", "\r"]));
            answer.lines.insert(0, before);
        }
        3 | 4 => {
            let at = inside(rng, answer);
            let field = line(rng.pick(ODD_FIELDS));
            answer.lines.insert(at, field);
        }
        5 => {
            let end = latin(rng.pick(ENDS));
            if let Some(line) = any_line(rng, answer) {
                line.truncate(line.trim_ascii_end().len());
                line.extend(end);
            }
        }
        6 => answer.lines.iter_mut().for_each(|line| {
            line.truncate(line.trim_ascii_end().len());
            line.push(b'\n');
        }),
        7 | 8 => {
            answer.lines.retain(|line| !is_length(line) && !is_coding(line));
            let at = inside(rng, answer).max(1).min(answer.lines.len());
            let text = rng.pick(LENGTHS).replace('N', &body.to_string());
            answer.lines.insert(at, line(&text));
        }
        9 => {
            // Shorter than it says, or longer.
            let shift = [-1, 1, -5, 5, 100][rng.below(5)];
            answer.lines.retain(|line| !is_length(line) && !is_coding(line));
            let at = inside(rng, answer).max(1).min(answer.lines.len());
            answer.lines.insert(at, line(&format!("Content-Length: {}", body.saturating_add_signed(shift))));
            answer.closes |= rng.chance(70);
        }
        10 => {
            answer.lines.retain(|line| !is_length(line) && !is_coding(line));
            let at = inside(rng, answer).max(1).min(answer.lines.len());
            let coding = line(rng.pick(CODINGS));
            answer.lines.insert(at, coding);
            answer.body = chunks(rng);
        }
        11 => {
            answer.lines.retain(|line| !is_length(line) && !is_coding(line));
            let at = inside(rng, answer).max(1).min(answer.lines.len());
            answer.lines.insert(at, line("Transfer-Encoding: chunked"));
            answer.body = chunks(rng);
            spoil_chunks(rng, &mut answer.body);
        }
        12..15 => answer.after = latin(rng.pick(AFTER)),
        15 => {
            // It breaks off.
            if let Some(part) = answer.body.last_mut() {
                part.truncate(rng.below(part.len()));
            } else {
                answer.lines.pop();
            }
            answer.closes = true;
        }
        16 => answer.early = true,
        _ => {
            if let Some(line) = any_line(rng, answer) {
                spoil_byte(rng, line);
            }
        }
    }
}

/// Any line but the one that says what is answered: the comparison reads it.
fn any_line<'a>(rng: &mut Rng, answer: &'a mut Answer) -> Option<&'a mut Vec<u8>> {
    let mut lines: Vec<_> =
        answer.lines.iter_mut().filter(|line| !line.starts_with(NUMBER_LINE.as_bytes())).collect();
    (!lines.is_empty()).then(|| lines.swap_remove(rng.below(lines.len())))
}
