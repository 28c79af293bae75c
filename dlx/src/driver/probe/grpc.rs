//! Probes by the standard gRPC health service, in clear text.
//!
//! Its two messages are a string and a number: they are written and read here without a gRPC library.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::error::{InvalidProbe, ProbeError};

/// The longest answer: five bytes and a message of two, and room for later versions.
const MAX_ANSWER: usize = 1024;
/// The longest name of a service.
const MAX_NAME: usize = 1024;

/// A call of `grpc.health.v1.Health/Check`, ready to be made.
pub(crate) struct GrpcProbe {
    uri: Uri,
    message: Bytes,
}

// === impl GrpcProbe ===

impl GrpcProbe {
    /// Checks `service`; empty is the whole server.
    ///
    /// # Errors
    ///
    /// The name or the address is invalid.
    pub(crate) fn new(service: &str, address: &str) -> Result<Self, InvalidProbe> {
        if service.len() > MAX_NAME {
            return Err(InvalidProbe::ServiceName(MAX_NAME));
        }
        let uri =
            Uri::builder().scheme("http").authority(address).path_and_query("/grpc.health.v1.Health/Check");
        let uri =
            uri.build().map_err(|source| InvalidProbe::Address { address: address.to_owned(), source })?;
        Ok(Self { uri, message: request(service) })
    }

    /// Makes the call.
    ///
    /// # Errors
    ///
    /// It is not ready.
    pub(crate) async fn check(&self, stream: TcpStream) -> Result<(), ProbeError> {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        // Ends with `sender`, which returns its error, too.
        tokio::spawn(async move { drop(connection.await) });
        let mut call = Request::new(Full::new(self.message.clone()));
        (*call.method_mut(), *call.uri_mut()) = (Method::POST, self.uri.clone());
        call.headers_mut().extend([
            (header::CONTENT_TYPE, HeaderValue::from_static("application/grpc")),
            (header::TE, HeaderValue::from_static("trailers")),
            (header::USER_AGENT, HeaderValue::from_static("scaler-probe")),
        ]);
        let answer = sender.send_request(call).await?;
        if answer.status() != http::StatusCode::OK {
            return Err(ProbeError::GrpcHttpStatus(answer.status()));
        }
        // A response without a message has its status among the headers.
        check_status(answer.headers(), false)?;
        let (mut body, mut message, mut ended) = (answer.into_body(), BytesMut::new(), false);
        while let Some(frame) = body.frame().await {
            let frame = frame?;
            if let Some(trailers) = frame.trailers_ref() {
                check_status(trailers, true)?;
                ended = true;
            } else if let Some(data) = frame.data_ref() {
                if message.len() + data.len() > MAX_ANSWER {
                    return Err(ProbeError::LongAnswer(MAX_ANSWER));
                }
                message.extend_from_slice(data);
            }
        }
        if !ended {
            return Err(ProbeError::NoStatus);
        }
        match serving_status(&message).ok_or(ProbeError::Malformed)? {
            1 => Ok(()),
            other => Err(ProbeError::NotServing(other)),
        }
    }
}

/// Whether the call succeeded, as far as these headers say.
fn check_status(headers: &HeaderMap, due: bool) -> Result<(), ProbeError> {
    let Some(status) = headers.get("grpc-status") else {
        return if due { Err(ProbeError::NoStatus) } else { Ok(()) };
    };
    let message = headers.get("grpc-message").and_then(|message| message.to_str().ok()).unwrap_or_default();
    let message = message.to_owned();
    match status.as_bytes() {
        b"0" if due => Ok(()),
        b"0" => Err(ProbeError::NoMessage),
        b"5" => Err(ProbeError::UnknownService(message)),
        b"12" => Err(ProbeError::NoHealthService(message)),
        status => {
            Err(ProbeError::GrpcStatus { status: String::from_utf8_lossy(status).into_owned(), message })
        }
    }
}

/// `HealthCheckRequest { string service = 1; }` with gRPC's five bytes in front.
fn request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(1 << 3 | 2);
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(5 + message.len());
    // Not compressed.
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put(message);
    framed.freeze()
}

/// `HealthCheckResponse { ServingStatus status = 1; }` after gRPC's five bytes; the last one counts, and none is 0.
fn serving_status(framed: &[u8]) -> Option<u64> {
    let (prefix, mut message) = framed.split_first_chunk::<5>()?;
    let [compressed, length @ ..] = *prefix;
    if compressed != 0 || u32::from_be_bytes(length) as usize != message.len() {
        return None;
    }
    let mut status = 0;
    while !message.is_empty() {
        let key = take_varint(&mut message)?;
        match (key >> 3, key & 7) {
            (0, _) => return None,
            (1, 0) => status = take_varint(&mut message)?,
            (_, 0) => drop(take_varint(&mut message)?),
            (_, 1) => drop(message.split_off(..8)?),
            (_, 2) => {
                let length = usize::try_from(take_varint(&mut message)?).ok()?;
                message.split_off(..length)?;
            }
            (_, 5) => drop(message.split_off(..4)?),
            _ => return None,
        }
    }
    Some(status)
}

fn put_varint(to: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        to.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    to.put_u8(number as u8);
}

fn take_varint(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    // Ten bytes hold 64 bits; an eleventh is invalid.
    for place in 0..10 {
        let byte = *from.split_off_first()?;
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{request, serving_status};

    fn framed(message: &[u8]) -> Vec<u8> {
        [&[0], (message.len() as u32).to_be_bytes().as_slice(), message].concat()
    }

    #[test]
    fn a_request_is_encoded_as_protobuf() {
        assert_eq!(request("").as_ref(), [0, 0, 0, 0, 0]);
        assert_eq!(request("shop").as_ref(), b"\0\0\0\0\x06\x0a\x04shop");
        let long = request(&"a".repeat(300));
        assert_eq!(&long[..8], b"\0\0\0\x01\x2f\x0a\xac\x02");
    }

    #[test]
    fn an_answer_is_decoded_and_unknown_fields_are_skipped() {
        for (message, status) in [
            (&b""[..], Some(0)),
            (b"\x08\x01", Some(1)),
            (b"\x08\x02", Some(2)),
            // Twice: the last one counts.
            (b"\x08\x01\x08\x03", Some(3)),
            // Other fields of each wire type.
            (b"\x12\x03abc\x18\x96\x01\x25\0\0\0\0\x29\0\0\0\0\0\0\0\0\x08\x01", Some(1)),
            // Cut off, a group, a field 0, a number that does not end.
            (b"\x08", None),
            (b"\x12\x05abc", None),
            (b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", None),
            (b"\x0b", None),
            (b"\x00\x01", None),
            (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", None),
        ] {
            assert_eq!(serving_status(&framed(message)), status, "{message:?}");
        }
        assert_eq!(serving_status(&[1, 0, 0, 0, 0]), None, "compressed");
        assert_eq!(serving_status(&[0, 0, 0, 0, 2, 8]), None, "shorter than it says");
        assert_eq!(serving_status(&[0, 0, 0, 0, 1, 8, 1]), None, "longer than it says");
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            serving_status(&bytes);
            serving_status(&framed(&bytes));
        }
    }
}
