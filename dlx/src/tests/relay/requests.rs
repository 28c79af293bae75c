//! Requests from a grammar, and what is wrong with them.

use super::{
    case::{Case, Rng, Sent},
    words::{
        BODIES, CODINGS, ENDS, FIELDS, HOSTS, LENGTHS, METHODS, ODD_FIELDS, ODD_HOSTS, ODD_METHODS,
        ODD_TARGETS, SHIFTED_LENGTHS, SIZES, TARGETS, TRAILERS, VERSIONS,
    },
};

/// The host of the resource.
pub(super) const HOST: &str = "a.test";

/// Latin-1, so that tables can have any byte.
pub(super) fn latin(text: &str) -> Vec<u8> {
    text.chars().map(|letter| letter as u8).collect()
}

fn line(text: &str) -> Vec<u8> {
    [&latin(text)[..], b"\r\n"].concat()
}

/// The case of a seed.
pub(super) fn generate(seed: u64) -> Case {
    let mut rng = Rng::new(seed);
    let count = 1 + rng.below(4);
    // Usually one of them is wrong, so that what precedes and follows it tells where it was taken to end.
    let wrong = if rng.chance(75) { rng.below(count) } else { count };
    let requests: Vec<_> = (0..count)
        .map(|number| {
            let mut request = valid(&mut rng, number);
            if number == wrong {
                for _ in 0..=rng.below(2) {
                    spoil(&mut rng, &mut request);
                }
            }
            request
        })
        .collect();
    let mut case = Case {
        requests,
        answers: Vec::new(),
        in_turn: rng.chance(40),
        own_port: rng.chance(25),
        pieces: rng.chance(50).then(|| rng.next()),
        cut: None,
    };
    if rng.chance(10) {
        let all = case.requests.iter().map(|request| request.bytes().len()).sum();
        case.cut = Some(rng.below(all));
    } else {
        // Whatever came before, this ends the connection, or is seen as a part of it.
        case.requests.push(last());
    }
    case
}

/// A request that ends its connection.
pub(super) fn last() -> Sent {
    let lines = ["GET /last HTTP/1.1", "Host: a.test", "Connection: close", ""];
    Sent { lines: lines.map(line).to_vec(), body: Vec::new() }
}

/// A valid request.
pub(super) fn valid(rng: &mut Rng, number: usize) -> Sent {
    let (method, mut target) = (rng.pick(METHODS), rng.pick(TARGETS).to_owned());
    if target.starts_with('/') && !target.contains('?') {
        // Each can be told from the others.
        target += &format!("?{number}");
    }
    let mut lines = vec![line(&format!("{method} {target} HTTP/1.1")), line(rng.pick(HOSTS))];
    for _ in 0..rng.below(4) {
        let field = line(rng.pick(FIELDS));
        lines.push(field);
    }
    if rng.chance(4) {
        let most = [60, 70, 200, 1100][rng.below(4)];
        lines.extend((0..most).map(|number| line(&format!("X-{number}: {number}"))));
    }
    if rng.chance(4) {
        let long =
            [3_000, 4_090, 8_100, 15_900, 16_400, 40_000, 65_400, 66_000][rng.below(8)] + rng.below(100);
        lines.push(line(&format!("X-Long: {}", "x".repeat(long))));
    }
    let bodiless = matches!(method, "GET" | "HEAD" | "OPTIONS" | "DELETE") && rng.chance(80);
    let mut body = Vec::new();
    match rng.below(2) {
        _ if bodiless => {}
        0 => {
            body.push(latin(rng.pick(BODIES)));
            if rng.chance(5) {
                body.push(vec![b'x'; rng.below(70_000)]);
            }
            let length: usize = body.iter().map(Vec::len).sum();
            lines.push(line(&format!("Content-Length: {length}")));
        }
        _ => {
            lines.push(line("Transfer-Encoding: chunked"));
            body = chunks(rng);
        }
    }
    let at = 1 + rng.below(lines.len() - 1);
    lines.swap(1, at);
    lines.push(b"\r\n".to_vec());
    Sent { lines, body }
}

/// A chunked body: size lines and data in turn, then the last line and the trailers.
pub(super) fn chunks(rng: &mut Rng) -> Vec<Vec<u8>> {
    let mut body = Vec::new();
    for _ in 0..rng.below(3) {
        let mut data = latin(rng.pick(BODIES));
        if data.is_empty() || rng.chance(5) {
            data = vec![b'x'; 1 + rng.below(20_000)];
        }
        body.push(format!("{:x}\r\n", data.len()).into_bytes());
        body.push([&data[..], b"\r\n"].concat());
    }
    body.push(b"0\r\n".to_vec());
    if rng.chance(15) {
        body.push(line("X-Sum: 1"));
    }
    body.push(b"\r\n".to_vec());
    body
}

/// Makes something wrong, or unusual.
fn spoil(rng: &mut Rng, request: &mut Sent) {
    let is_length = |line: &Vec<u8>| line.to_ascii_lowercase().starts_with(b"content-length");
    let is_coding = |line: &Vec<u8>| line.to_ascii_lowercase().starts_with(b"transfer-encoding");
    let body: usize = request.body.iter().map(Vec::len).sum();
    match rng.below(22) {
        0 => first_line(rng, request, 0),
        1 => first_line(rng, request, 1),
        2 => first_line(rng, request, 2),
        3 => {
            // Of the first line, the blanks.
            let odd = rng.pick(&["  ", "\t", " \t", "\u{b}", "\r", "\0"]);
            let spoiled = String::from_utf8_lossy(&request.lines[0]).replacen(' ', odd, 1 + rng.below(2));
            request.lines[0] = spoiled.into_bytes();
        }
        4 => {
            let before = rng.pick(&[
                "\r\n",
                "\n",
                "\r",
                "\r\n\r\n",
                "\n\n",
                " \r\n",
                "\0",
                " ",
                "\t",
                "x\r\n",
                "\u{ef}\u{bb}\u{bf}",
            ]);
            request.lines.insert(0, latin(before));
        }
        5 | 6 => set_host(rng, request),
        7 | 8 => {
            let at = 1 + rng.below(request.lines.len() - 1);
            let field = rng.pick(ODD_FIELDS);
            request.lines.insert(at, line(field));
        }
        9 | 10 => {
            // The end of a line, that of the head among them.
            let at = rng.below(request.lines.len());
            let end = latin(rng.pick(ENDS));
            let line = &mut request.lines[at];
            line.truncate(line.trim_ascii_end().len());
            line.extend(end);
        }
        11 => request.lines.iter_mut().for_each(|line| {
            line.truncate(line.trim_ascii_end().len());
            line.push(b'\n');
        }),
        12 | 13 => {
            request.lines.retain(|line| !is_length(line));
            let text = rng.pick(LENGTHS).replace('N', &body.to_string());
            insert(rng, request, &text);
        }
        14 => {
            let shift = SHIFTED_LENGTHS[rng.below(SHIFTED_LENGTHS.len())];
            request.lines.retain(|line| !is_length(line) && !is_coding(line));
            let length = body.saturating_add_signed(shift);
            insert(rng, request, &format!("Content-Length: {length}"));
        }
        15 | 16 => {
            request.lines.retain(|line| !is_coding(line) && !is_length(line));
            if body == 0 {
                request.body = chunks(rng);
            }
            let coding = rng.pick(CODINGS);
            insert(rng, request, coding);
        }
        17 => {
            let at = rng.below(request.lines.len());
            let again = request.lines[at].clone();
            request.lines.insert(at, again);
        }
        18 | 19 => {
            if !request.lines.iter().any(is_coding) {
                request.lines.retain(|line| !is_length(line));
                insert(rng, request, "Transfer-Encoding: chunked");
                request.body = chunks(rng);
            }
            spoil_chunks(rng, &mut request.body);
        }
        20 => {
            // Too much, or too little.
            match rng.chance(50) {
                true => request.body.push(latin(rng.pick(&[
                    "\r\n",
                    "\n",
                    "x",
                    "\0",
                    "\r",
                    " ",
                    "0\r\n\r\n",
                    "\r\n\r\n\r\n",
                ]))),
                false => drop(request.body.pop()),
            }
        }
        _ => {
            let at = rng.below(request.lines.len());
            spoil_byte(rng, &mut request.lines[at]);
        }
    }
}

fn first_line(rng: &mut Rng, request: &mut Sent, part: usize) {
    let text = String::from_utf8_lossy(&request.lines[0]).trim_end().to_owned();
    let mut parts: Vec<_> = text.split(' ').map(str::to_owned).collect();
    let odd = rng.pick([ODD_METHODS, ODD_TARGETS, VERSIONS][part]);
    match parts.get_mut(part) {
        Some(part) => *part = odd.to_owned(),
        None => parts.push(odd.to_owned()),
    }
    request.lines[0] = line(&parts.join(" "));
}

fn set_host(rng: &mut Rng, request: &mut Sent) {
    let own = request.lines.iter().position(|line| line.to_ascii_lowercase().starts_with(b"host:"));
    let odd = rng.pick(ODD_HOSTS);
    match own {
        Some(at) if odd.is_empty() => drop(request.lines.remove(at)),
        Some(at) => request.lines[at] = line(odd),
        None => {}
    }
}

/// Adds a field anywhere.
fn insert(rng: &mut Rng, request: &mut Sent, field: &str) {
    let at = 1.max(rng.below(request.lines.len())).min(request.lines.len());
    request.lines.insert(at, line(field));
}

/// Makes something wrong in a chunked body.
pub(super) fn spoil_chunks(rng: &mut Rng, body: &mut Vec<Vec<u8>>) {
    let trailers = body.iter().position(|part| part.starts_with(b"0")).map_or(body.len(), |at| at + 1);
    let at = rng.below(body.len().max(1));
    let Some(part) = body.get_mut(at) else { return };
    match rng.below(6) {
        // A size, or data that then looks like one.
        0 | 1 => {
            let size: Vec<u8> = part.iter().copied().take_while(u8::is_ascii_hexdigit).collect();
            if size.is_empty() || size.len() > 8 {
                return;
            }
            let text = rng.pick(SIZES).replace('N', &String::from_utf8_lossy(&size));
            *part = line(&text);
        }
        2 => {
            // A line's or the data's end.
            let end = latin(rng.pick(ENDS));
            part.truncate(part.len() - part.len().min(2));
            part.extend(end);
        }
        3 => part.insert(part.len().saturating_sub(2), b'x'),
        4 => drop(body.remove(at)),
        _ => {
            let trailer = line(rng.pick(TRAILERS));
            body.insert(trailers, trailer);
        }
    }
}

/// Changes any byte of a line.
pub(super) fn spoil_byte(rng: &mut Rng, line: &mut Vec<u8>) {
    let at = rng.below(line.len());
    let odd =
        [0, 1, b'\r', b'\n', b' ', b'\t', b':', b'\x7f', 0x80, 0xff, b',', b';', b'"', b'0', b'+', 0xb, 0xc];
    let byte = odd[rng.below(odd.len())];
    match (rng.below(3), line.get_mut(at)) {
        (0, Some(own)) => *own = byte,
        (1, Some(_)) => drop(line.remove(at)),
        _ => line.insert(at, byte),
    }
}
