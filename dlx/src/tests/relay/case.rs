//! A case: what a client sends on one connection, and what its resource answers.

use std::fmt;

use super::answers::NUMBER_LINE;

/// What happens on one connection of a client.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) requests: Vec<Sent>,
    /// To each request in the order of arrival; those that follow are answered plainly.
    pub(super) answers: Vec<Answer>,
    /// Whether the client waits for each answer before the next request.
    pub(super) in_turn: bool,
    /// Whether the requests come on the resource's own port, where the DLX preserves what is about the client.
    pub(super) own_port: bool,
    /// Bytes go out in pieces of sizes drawn from this seed; otherwise each request in one.
    pub(super) pieces: Option<u64>,
    /// Of all the client's bytes, only this many are sent: it closes early.
    pub(super) cut: Option<usize>,
}

/// A request as bytes, right or wrong.
#[derive(Clone, Debug, Default)]
pub(super) struct Sent {
    /// The lines of its head with their ends, the empty one included.
    pub(super) lines: Vec<Vec<u8>>,
    pub(super) body: Vec<Vec<u8>>,
}

/// An answer as bytes, right or wrong.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    /// The lines of its heads with their ends, the empty ones included.
    pub(super) lines: Vec<Vec<u8>>,
    pub(super) body: Vec<Vec<u8>>,
    /// What follows it.
    pub(super) after: Vec<u8>,
    /// Whether that comes by itself, later.
    pub(super) late: bool,
    /// Whether it is sent as soon as the request's head has come.
    pub(super) early: bool,
    /// Whether the resource closes the connection after it.
    pub(super) closes: bool,
    /// Bytes go out in pieces of sizes drawn from this seed.
    pub(super) pieces: Option<u64>,
}

/// Numbers that follow from a seed alone (SplitMix64).
#[derive(Clone, Debug)]
pub(super) struct Rng(u64);

// === impl Rng ===

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Less than `end`.
    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    pub(super) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(super) fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}

// === impl Sent ===

impl Sent {
    pub(super) fn bytes(&self) -> Vec<u8> {
        [self.lines.concat(), self.body.concat()].concat()
    }

    /// Its first line without the version.
    pub(super) fn start(&self) -> Vec<u8> {
        let head = self.lines.concat();
        let line = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).find(|line| !line.is_empty());
        let line = line.unwrap_or_default();
        line[..memchr::memrchr(b' ', line).unwrap_or(line.len())].to_vec()
    }

    /// Its target as it is sent.
    pub(super) fn target(&self) -> Vec<u8> {
        let start = self.start();
        memchr::memchr(b' ', &start).map_or_else(Vec::new, |blank| start[blank + 1..].to_vec())
    }

    /// The values of a field with this name, which is in lower case, as they are sent after the colon.
    pub(super) fn values(&self, name: &str) -> Vec<Vec<u8>> {
        let head = self.lines.concat();
        let fields = head.split(|byte| *byte == b'\n').filter_map(|line| {
            let colon = memchr::memchr(b':', line)?;
            line[..colon].eq_ignore_ascii_case(name.as_bytes()).then(|| line[colon + 1..].to_vec())
        });
        fields.collect()
    }

    /// Whether an answer to it has no body: with the right method in the wrong letters it has.
    pub(super) fn is_head(&self) -> bool {
        let first = self.lines.iter().find(|line| !line.trim_ascii().is_empty());
        first.is_some_and(|line| line.starts_with(b"HEAD "))
    }
}

// === impl Answer ===

impl Answer {
    /// The answer to a request of this number, without a fault: it says what it answers.
    pub(super) fn plain(number: usize, is_head: bool, what: &[u8]) -> Self {
        let body = format!("{number}: {}", what.escape_ascii());
        let lines = [
            "HTTP/1.1 200 OK\r\n",
            &format!("X-Answer: {number}\r\n"),
            &format!("Content-Length: {}\r\n", body.len()),
            "\r\n",
        ];
        Self {
            lines: lines.map(|line| line.as_bytes().to_vec()).to_vec(),
            body: if is_head { Vec::new() } else { vec![body.into_bytes()] },
            ..Self::default()
        }
    }

    /// The same as the answer to the request of this number.
    pub(super) fn to(&self, number: usize) -> Self {
        let mut answer = self.clone();
        for line in answer.lines.iter_mut().filter(|line| line.starts_with(NUMBER_LINE.as_bytes())) {
            let rest = line.split_off(NUMBER_LINE.len());
            line.pop();
            line.extend_from_slice(number.to_string().as_bytes());
            line.extend(rest);
        }
        answer
    }

    /// All but what follows it.
    pub(super) fn bytes(&self) -> Vec<u8> {
        [self.lines.concat(), self.body.concat()].concat()
    }
}

/// Cuts bytes into pieces.
pub(super) fn cut(bytes: &[u8], pieces: Option<u64>) -> Vec<&[u8]> {
    let Some(seed) = pieces else { return vec![bytes] };
    let mut rng = Rng::new(seed);
    let (mut cut, mut rest) = (Vec::new(), bytes);
    // Each piece costs a pause.
    while !rest.is_empty() && cut.len() < 8 {
        let most = if rng.chance(50) { 8 } else { rest.len() };
        let (piece, more) = rest.split_at((1 + rng.below(most)).min(rest.len()));
        cut.push(piece);
        rest = more;
    }
    if !rest.is_empty() {
        cut.push(rest);
    }
    cut
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ways = [
            (self.in_turn, "each after the last answer"),
            (self.own_port, "on the resource's own port"),
            (self.pieces.is_some(), "in pieces"),
        ];
        let ways: Vec<_> = ways.iter().filter(|way| way.0).map(|way| way.1).collect();
        writeln!(f, "client ({}):", ways.join(", "))?;
        for request in &self.requests {
            show(f, &[&request.lines[..], &request.body].concat())?;
        }
        if let Some(cut) = self.cut {
            writeln!(f, "  ... of which the first {cut} bytes are sent")?;
        }
        for (number, answer) in self.answers.iter().enumerate() {
            writeln!(
                f,
                "answer {number}{}{}:",
                if answer.early { ", before the body came" } else { "" },
                if answer.pieces.is_some() { ", in pieces" } else { "" }
            )?;
            show(f, &[&answer.lines[..], &answer.body].concat())?;
            if !answer.after.is_empty() {
                let late = if answer.late { "later" } else { "then" };
                writeln!(f, "  ({late}) {}", answer.after.escape_ascii())?;
            }
            if answer.closes {
                writeln!(f, "  (closes)")?;
            }
        }
        Ok(())
    }
}

fn show(f: &mut fmt::Formatter<'_>, parts: &[Vec<u8>]) -> fmt::Result {
    for part in parts {
        match part.len() {
            0..1000 => writeln!(f, "  {}", part.escape_ascii())?,
            len => writeln!(f, "  {}... ({len} bytes)", part[..100].escape_ascii())?,
        }
    }
    Ok(())
}
