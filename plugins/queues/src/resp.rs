//! Redis' protocol: requests, and answers within limits.

use std::io;

use tokio::io::AsyncBufRead;

use crate::connection::{invalid_data, quote, read_body, read_line};

/// An answer's most bytes: the groups of a stream have about 200 each.
const MAX_ANSWER: usize = 1024 * 1024;
/// The longest text that is read on one line.
const MAX_LINE: usize = 1024;
/// The longest text with a length: the name of a group.
const MAX_BULK: usize = 64 * 1024;
/// How deep lists of an answer may lie in each other.
const MAX_DEPTH: u32 = 4;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RedisValue {
    Text(Vec<u8>),
    Integer(i64),
    Null,
    List(Vec<RedisValue>),
    /// The broker refuses: `WRONGTYPE Operation against ...`
    Error(String),
}

/// Appends a command.
pub(crate) fn append_command(bytes: &mut Vec<u8>, words: &[&[u8]]) {
    bytes.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
}

/// Reads one answer.
pub(crate) async fn read_value(reader: &mut (impl AsyncBufRead + Unpin + Send)) -> io::Result<RedisValue> {
    let mut left = MAX_ANSWER;
    read_part(reader, &mut left, MAX_DEPTH).await
}

async fn read_part(
    reader: &mut (impl AsyncBufRead + Unpin + Send),
    left: &mut usize,
    depth: u32,
) -> io::Result<RedisValue> {
    let too_large = || invalid_data("it sent a larger answer than is read".to_owned());
    let line = read_line(reader, MAX_LINE).await?;
    *left = left.checked_sub(line.len() + 2).ok_or_else(too_large)?;
    let nonsense = || invalid_data(format!("it is no Redis: it answered {:?}", quote(&line)));
    let (kind, rest) = line.split_first().ok_or_else(nonsense)?;
    let number = || str::from_utf8(rest).ok().and_then(|text| text.parse::<i64>().ok()).ok_or_else(nonsense);
    Ok(match kind {
        b'+' => RedisValue::Text(rest.to_vec()),
        b'-' => RedisValue::Error(quote(rest)),
        b':' => RedisValue::Integer(number()?),
        b'$' | b'*' if number()? == -1 => RedisValue::Null,
        b'$' => {
            let length = usize::try_from(number()?).map_err(|_| nonsense())?;
            if length > MAX_BULK {
                return Err(too_large());
            }
            *left = left.checked_sub(length + 2).ok_or_else(too_large)?;
            RedisValue::Text(read_body(reader, length).await?)
        }
        b'*' => {
            let length = usize::try_from(number()?).map_err(|_| nonsense())?;
            let depth = depth.checked_sub(1).ok_or_else(too_large)?;
            // Not as many as are announced: as many as come.
            let mut parts = Vec::new();
            for _ in 0..length {
                parts.push(Box::pin(read_part(reader, left, depth)).await?);
            }
            RedisValue::List(parts)
        }
        _ => return Err(nonsense()),
    })
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use proptest::prelude::*;

    use super::*;

    fn read(mut bytes: &[u8]) -> io::Result<RedisValue> {
        read_value(&mut bytes).now_or_never().expect("the bytes are there")
    }

    #[test]
    fn answers_are_read() {
        let text = |text: &str| RedisValue::Text(text.into());
        for (bytes, expected) in [
            ("+PONG\r\n", text("PONG")),
            (":-7\r\n", RedisValue::Integer(-7)),
            ("$3\r\na\r\n\r\n", text("a\r\n")),
            ("$-1\r\n", RedisValue::Null),
            ("*-1\r\n", RedisValue::Null),
            ("-ERR no such key\r\n", RedisValue::Error("ERR no such key".to_owned())),
            (
                "*2\r\n*1\r\n:1\r\n+a\r\n",
                RedisValue::List(vec![RedisValue::List(vec![RedisValue::Integer(1)]), text("a")]),
            ),
        ] {
            assert_eq!(read(bytes.as_bytes()).unwrap(), expected, "{bytes:?}");
        }
    }

    #[test]
    fn an_answer_has_limits() {
        let deep = "*1\r\n".repeat(10_000);
        let many = format!("*999999999\r\n{}", ":1\r\n".repeat(500_000));
        let bulks = format!("*999\r\n{}", format!("$60000\r\n{}\r\n", "x".repeat(60_000)).repeat(20));
        for bytes in
            [deep.as_str(), &many, &bulks, "$99999999999\r\n", "$1000000\r\n", &"x".repeat(1_000_000)]
        {
            let error = read(bytes.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        }
        for bytes in [
            "",
            "\r\n",
            "$-2\r\n",
            "*-2\r\n",
            ":\r\n",
            ":x\r\n",
            "HTTP/1.1 400 Bad Request\r\n",
            "$1\r\nab\r\n",
            "*2\r\n:1\r\n",
        ] {
            assert!(read(bytes.as_bytes()).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }

        #[test]
        fn no_almost_right_answer_panics(text in "([*$:+-]-?[0-9]{0,20}\r\n([a-z]{0,3}\r\n)?){0,20}") {
            let _ = read(text.as_bytes());
        }

        #[test]
        fn a_command_is_read_as_it_was_written(words in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 1..5)) {
            let mut bytes = Vec::new();
            append_command(&mut bytes, &words.iter().map(Vec::as_slice).collect::<Vec<_>>());
            prop_assert_eq!(read(&bytes).unwrap(), RedisValue::List(words.into_iter().map(RedisValue::Text).collect()));
        }
    }
}
