//! WebSockets (RFC 6455) as far as both sides of a test need them: whole messages of up to 64 KiB.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// What every key is joined with.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// The end.
    Close,
    /// Are you there?
    Ping,
    /// I am.
    Pong,
}

/// A message in one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// Unmasked.
    pub payload: Vec<u8>,
}

/// The header by which a server shows that it has understood a client's key.
pub fn accept(key: &[u8]) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key);
    context.update(GUID);
    let digest = k8s_openapi::ByteString(context.finish().as_ref().to_vec());
    // As base64, without a crate of its own.
    serde_json::to_value(digest).ok().and_then(|text| text.as_str().map(str::to_owned)).unwrap_or_default()
}

/// Reads a message.
///
/// # Errors
///
/// The connection ended, or it is a message of another sort.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Message> {
    let kind = match stream.read_u8().await? {
        0x81 => Kind::Text,
        0x88 => Kind::Close,
        0x89 => Kind::Ping,
        0x8a => Kind::Pong,
        other => return Err(io::Error::other(format!("a frame that begins with {other:#x}"))),
    };
    let second = stream.read_u8().await?;
    let length = match second & 0x7f {
        126 => usize::from(stream.read_u16().await?),
        127 => return Err(io::Error::other("a message that is too long")),
        length => usize::from(length),
    };
    let mut mask = [0; 4];
    if second & 0x80 != 0 {
        stream.read_exact(&mut mask).await?;
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await?;
    apply(mask, &mut payload);
    Ok(Message { kind, payload })
}

/// Writes a message; a client's has a mask.
///
/// # Errors
///
/// The connection ended, or the message is too long.
pub async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &Message,
    mask: Option<[u8; 4]>,
) -> io::Result<()> {
    let first = match message.kind {
        Kind::Text => 0x81,
        Kind::Close => 0x88,
        Kind::Ping => 0x89,
        Kind::Pong => 0x8a,
    };
    let masked = if mask.is_some() { 0x80 } else { 0 };
    let length = u16::try_from(message.payload.len()).map_err(|_| io::Error::other("too long"))?;
    let mut frame = vec![first];
    match u8::try_from(length) {
        Ok(length @ ..=125) => frame.push(masked | length),
        _ => {
            frame.push(masked | 126);
            frame.extend(length.to_be_bytes());
        }
    }
    let mut payload = message.payload.clone();
    if let Some(mask) = mask {
        frame.extend(mask);
        apply(mask, &mut payload);
    }
    frame.extend(payload);
    stream.write_all(&frame).await?;
    stream.flush().await
}

fn apply(mask: [u8; 4], payload: &mut [u8]) {
    for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_rfc_is_accepted_as_it_says() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[tokio::test]
    async fn what_is_written_is_read() {
        for length in [0, 5, 125, 126, 60_000] {
            for mask in [None, Some([1, 2, 3, 4])] {
                let message = Message { kind: Kind::Text, payload: vec![b'x'; length] };
                let mut wire = Vec::new();
                write(&mut wire, &message, mask).await.unwrap();
                assert_eq!(mask.is_some() && length > 0, !wire.ends_with(b"x") && length > 0);
                assert_eq!(read(&mut wire.as_slice()).await.unwrap(), message);
            }
        }
    }
}
