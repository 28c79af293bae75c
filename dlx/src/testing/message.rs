//! HTTP/1 messages as bytes, parsed without a library, which would hide irregularities.

use std::collections::BTreeMap;

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::timeout,
};

use super::EVENT_TIMEOUT;

/// Hop-by-hop fields (RFC 9110 7.6.1), and those for the framing of the body.
const OF_A_CONNECTION: [&str; 4] = ["connection", "keep-alive", "transfer-encoding", "te"];

/// A message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// Heads of status 1xx before it.
    pub(crate) before: Vec<String>,
    /// Its first line, without the version.
    pub(crate) start: Vec<u8>,
    /// The values of each field in their order, by its name in lower case.
    pub(crate) fields: BTreeMap<String, Vec<Vec<u8>>>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: BTreeMap<String, Vec<Vec<u8>>>,
}

/// Reads one message. `headless`: an answer to HEAD. `None`: the connection ended before it began.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin), headless: bool) -> Option<Message> {
    let (mut bytes, mut ended) = (Vec::new(), false);
    loop {
        if let Some(message) = Message::parse(&bytes, headless, ended) {
            return Some(message);
        }
        assert!(!ended || bytes.is_empty(), "half a message: {:?}", String::from_utf8_lossy(&bytes));
        if ended {
            return None;
        }
        let read = timeout(EVENT_TIMEOUT, stream.read_buf(&mut bytes)).await.expect("a message");
        ended = read.unwrap_or(0) == 0;
    }
}

impl Message {
    /// The first message of these bytes, if all of it is there.
    fn parse(bytes: &[u8], headless: bool, ended: bool) -> Option<Self> {
        let (head, mut rest) = split(bytes, b"\r\n\r\n")?;
        let (start, lines) = split(head, b"\r\n").unwrap_or((head, b""));
        if start.starts_with(b"HTTP/1.1 1") && !start.starts_with(b"HTTP/1.1 101") {
            let mut message = Self::parse(rest, headless, ended)?;
            message.before.insert(0, String::from_utf8_lossy(head).into_owned());
            return Some(message);
        }
        let mut fields = parse_fields(lines);
        let says = |name: &str, text: &[u8]| fields.get(name).is_some_and(|all| all.contains(&text.to_vec()));
        let answer = start.starts_with(b"HTTP/1.");
        let chunked = says("transfer-encoding", b"chunked");
        let length =
            fields.get("content-length").map(|all| String::from_utf8_lossy(&all[0]).parse::<usize>());
        let none = headless || answer && matches!(&start[9..12], b"204" | b"304" | b"101");
        let (mut body, mut trailers) = (Vec::new(), BTreeMap::new());
        if none || !answer && !chunked && length.is_none() {
        } else if chunked {
            loop {
                let (size, more) = split(rest, b"\r\n")?;
                let size = usize::from_str_radix(std::str::from_utf8(size).unwrap(), 16).unwrap();
                if size == 0 {
                    if !more.starts_with(b"\r\n") {
                        trailers = parse_fields(split(more, b"\r\n\r\n")?.0);
                    }
                    break;
                }
                body.extend_from_slice(more.get(..size)?);
                rest = more.get(size + 2..)?;
            }
        } else if let Some(Ok(length)) = length {
            body = rest.get(..length)?.to_vec();
        } else {
            body = ended.then(|| rest.to_vec())?;
        }
        for name in OF_A_CONNECTION {
            fields.remove(name);
        }
        let start = match answer {
            true => start[9..].to_vec(),
            false => start[..start.len() - b" HTTP/1.1".len()].to_vec(),
        };
        Some(Self { before: Vec::new(), start, fields, body, trailers })
    }

    /// The differences in `other`, one text for each.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        let mut all = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        for gone in self.before.iter().filter(|head| !other.before.contains(head)) {
            all.push(format!("lost {gone}"));
        }
        if self.start != other.start {
            all.push(format!("{} became {}", text(&self.start), text(&other.start)));
        }
        for (what, own, others) in
            [("field", &self.fields, &other.fields), ("trailer", &self.trailers, &other.trailers)]
        {
            for name in own.keys().chain(others.keys().filter(|name| !own.contains_key(*name))) {
                match (own.get(name), others.get(name)) {
                    (Some(_), None) => all.push(format!("lost {what} {name}")),
                    (None, Some(_)) => all.push(format!("new {what} {name}")),
                    (own, others) if own != others => all.push(format!("other {what} {name}")),
                    _ => {}
                }
            }
        }
        if self.body != other.body {
            all.push(format!("body {} became {}", text(&self.body), text(&other.body)));
        }
        all
    }
}

fn parse_fields(lines: &[u8]) -> BTreeMap<String, Vec<Vec<u8>>> {
    let mut fields: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let mut rest = lines;
    while !rest.is_empty() {
        let (line, more) = split(rest, b"\r\n").unwrap_or((rest, b""));
        let (name, value) = split(line, b":").unwrap();
        let name = std::str::from_utf8(name).unwrap().to_ascii_lowercase();
        fields.entry(name).or_default().push(value.trim_ascii().to_vec());
        rest = more;
    }
    fields
}

fn split<'a>(bytes: &'a [u8], at: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let found = bytes.windows(at.len()).position(|window| window == at)?;
    Some((&bytes[..found], &bytes[found + at.len()..]))
}
