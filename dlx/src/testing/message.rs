//! HTTP/1 messages as bytes, parsed without a library, which would hide irregularities. What two parsers could read
//! differently is an error here.

use std::{collections::BTreeMap, fmt};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::timeout,
};

use super::EVENT_TIMEOUT;

/// Hop-by-hop fields (RFC 9110 7.6.1), and those for the framing of the body.
const OF_A_CONNECTION: [&str; 4] = ["connection", "keep-alive", "transfer-encoding", "te"];

/// Field values in their order, by names in lower case.
pub(crate) type Fields = BTreeMap<String, Vec<Vec<u8>>>;

/// A message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// Heads of status 1xx before it.
    pub(crate) before: Vec<String>,
    /// Its first line, without the version.
    pub(crate) start: Vec<u8>,
    /// The values of each field in their order, by its name in lower case.
    pub(crate) fields: Fields,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Fields,
}

/// A message at the beginning of some bytes.
#[derive(Debug)]
pub(crate) enum Parsed {
    /// All of it is there: its bytes, and itself.
    Whole(usize, Message),
    /// A part of it, with the beginning of its body.
    Head(Message),
    /// Not even the head.
    Nothing,
}

/// Reads one message. `headless`: an answer to HEAD. `None`: the connection ended before it began.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin), headless: bool) -> Option<Message> {
    let (mut bytes, mut ended) = (Vec::new(), false);
    loop {
        let parsed = Message::parse(&bytes, headless, ended);
        if let Parsed::Whole(_, mut message) =
            parsed.unwrap_or_else(|why| panic!("{why}: {}", bytes.escape_ascii()))
        {
            for name in OF_A_CONNECTION {
                message.fields.remove(name);
            }
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

// === impl Message ===

impl Message {
    /// The message at the beginning of these bytes. `headless`: an answer to HEAD. `ended`: nothing follows them.
    ///
    /// # Errors
    ///
    /// Two parsers could read it differently.
    pub(crate) fn parse(bytes: &[u8], headless: bool, ended: bool) -> Result<Parsed, String> {
        let Some((head, rest)) = split(bytes, b"\r\n\r\n") else {
            return match bytes.contains(&0) {
                true => Err("NUL in a head".to_owned()),
                false => Ok(Parsed::Nothing),
            };
        };
        let (start, lines) = split(head, b"\r\n").unwrap_or((head, b""));
        let (start, is_answer) = parse_start(start)?;
        let fields = parse_fields(lines)?;
        if is_answer && start.starts_with(b"1") && !start.starts_with(b"101") {
            if fields.contains_key("content-length") || fields.contains_key("transfer-encoding") {
                return Err("a length in an informational answer".to_owned());
            }
            let skipped = bytes.len() - rest.len();
            let text = String::from_utf8_lossy(head).into_owned();
            let before = |mut message: Self| {
                message.before.insert(0, text);
                message
            };
            return Ok(match Self::parse(rest, headless, ended)? {
                Parsed::Whole(len, message) => Parsed::Whole(skipped + len, before(message)),
                Parsed::Head(message) => Parsed::Head(before(message)),
                Parsed::Nothing => Parsed::Nothing,
            });
        }
        let framing = Framing::of(&fields)?;
        let mut message = Self { start, fields, ..Self::default() };
        let none = is_answer
            && (headless || [&b"204"[..], b"304", b"101"].iter().any(|code| message.start.starts_with(code)));
        let whole = match framing {
            _ if none => Some(rest),
            Framing::None if !is_answer => Some(rest),
            Framing::None => {
                message.body = rest.to_vec();
                ended.then_some(&b""[..])
            }
            Framing::Length(length) => {
                let here = usize::try_from(length).unwrap_or(usize::MAX).min(rest.len());
                message.body = rest[..here].to_vec();
                (here as u64 == length).then_some(&rest[here..])
            }
            Framing::Chunked => parse_chunks(rest, &mut message)?,
        };
        Ok(match whole {
            Some(left) => Parsed::Whole(bytes.len() - left.len(), message),
            None => Parsed::Head(message),
        })
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

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for before in &self.before {
            write!(f, "[{}] ", before.escape_debug())?;
        }
        write!(f, "{}", self.start.escape_ascii())?;
        let fields = self.fields.iter().map(|field| ("", field));
        for (what, (name, values)) in fields.chain(self.trailers.iter().map(|field| ("trailer ", field))) {
            for value in values {
                match value.len() {
                    0..200 => write!(f, " | {what}{name}: {}", value.escape_ascii())?,
                    len => write!(f, " | {what}{name}: ({len} bytes)")?,
                }
            }
        }
        match self.body.len() {
            0..300 => write!(f, " | {:?}", self.body.escape_ascii().to_string()),
            len => write!(f, " | body of {len} bytes"),
        }
    }
}

/// How a body is framed.
enum Framing {
    None,
    Length(u64),
    Chunked,
}

// === impl Framing ===

impl Framing {
    fn of(fields: &Fields) -> Result<Self, String> {
        let values = |name: &str| fields.get(name).map_or(&[][..], Vec::as_slice);
        let framing = match (values("content-length"), values("transfer-encoding")) {
            ([], []) => Self::None,
            ([length], []) if !length.is_empty() && length.iter().all(u8::is_ascii_digit) => {
                let length = String::from_utf8_lossy(length).parse();
                Self::Length(length.map_err(|_| "a length beyond 64 bits")?)
            }
            ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") => Self::Chunked,
            _ => return Err("an ambiguous length".to_owned()),
        };
        Ok(framing)
    }
}

/// The first line without its version, and whether it is an answer's.
fn parse_start(line: &[u8]) -> Result<(Vec<u8>, bool), String> {
    if let Some(status) = line.strip_prefix(b"HTTP/1.1 ").or_else(|| line.strip_prefix(b"HTTP/1.0 ")) {
        let (code, reason) = status.split_at(status.len().min(3));
        let is_code = code.len() == 3 && code.iter().all(u8::is_ascii_digit);
        if !is_code || !(reason.is_empty() || reason[0] == b' ') || !reason.iter().all(is_text) {
            return Err("no status line".to_owned());
        }
        return Ok((status.to_vec(), true));
    }
    let Some(rest) = line.strip_suffix(b" HTTP/1.1").or_else(|| line.strip_suffix(b" HTTP/1.0")) else {
        return Err("no first line".to_owned());
    };
    match split(rest, b" ") {
        Some((method, target))
            if !method.is_empty()
                && method.iter().all(is_token)
                && !target.is_empty()
                && target.iter().all(|byte| is_text(byte) && !b" \t".contains(byte)) =>
        {
            Ok((rest.to_vec(), false))
        }
        _ => Err("no request line".to_owned()),
    }
}

fn parse_fields(lines: &[u8]) -> Result<Fields, String> {
    let mut fields = Fields::new();
    let mut rest = lines;
    while !rest.is_empty() {
        let (line, more) = split(rest, b"\r\n").unwrap_or((rest, b""));
        let (name, value) = split(line, b":").ok_or("a line that is no field")?;
        if name.is_empty() || !name.iter().all(is_token) || !value.iter().all(is_text) {
            return Err(format!("a malformed field: {}", line.escape_ascii()));
        }
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        fields.entry(name).or_default().push(value.trim_ascii().to_vec());
        rest = more;
    }
    Ok(fields)
}

/// What follows a chunked body, if all of it is there.
fn parse_chunks<'a>(bytes: &'a [u8], message: &mut Message) -> Result<Option<&'a [u8]>, String> {
    let mut rest = bytes;
    loop {
        let Some((line, more)) = split(rest, b"\r\n") else {
            // Long before a line ends without an end it is seen to have none.
            let digits = rest.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
            return match digits > 16 || rest.contains(&b'\n') {
                true => Err("a malformed chunk".to_owned()),
                false => Ok(None),
            };
        };
        let (size, extension) =
            line.split_at(line.iter().position(|byte| *byte == b';').unwrap_or(line.len()));
        // Some servers pad sizes to one width, and blanks may precede an extension (RFC 9112 7.1.1).
        let size = size.trim_ascii_end();
        let is_size = (1..=16).contains(&size.len()) && size.iter().all(u8::is_ascii_hexdigit);
        if !is_size || !extension.iter().all(is_text) {
            return Err(format!("a malformed chunk size: {}", line.escape_ascii()));
        }
        let size =
            u64::from_str_radix(&String::from_utf8_lossy(size), 16).map_err(|error| error.to_string())?;
        if size == 0 {
            if let Some(left) = more.strip_prefix(b"\r\n") {
                return Ok(Some(left));
            }
            let Some((lines, left)) = split(more, b"\r\n\r\n") else { return Ok(None) };
            message.trailers = parse_fields(lines)?;
            return Ok(Some(left));
        }
        let here = usize::try_from(size).unwrap_or(usize::MAX).min(more.len());
        message.body.extend_from_slice(&more[..here]);
        let after = &more[here..];
        if (here as u64) < size || after.len() < 2 {
            return Ok(None);
        }
        rest = after.strip_prefix(b"\r\n").ok_or("a chunk without its end")?;
    }
}

/// A character of a name (RFC 9110 5.6.2).
fn is_token(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}

/// A character of a value.
fn is_text(byte: &u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

fn split<'a>(bytes: &'a [u8], at: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let found = memchr::memmem::find(bytes, at)?;
    Some((&bytes[..found], &bytes[found + at.len()..]))
}
