//! A client of gRPC over HTTP/2 without TLS.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::{Lost, Outcome};

/// Sends one message over a connection of its own: the same is to come back, and status 0 in the trailers after it.
pub async fn call(address: SocketAddr, host: &str, id: &str) -> Outcome {
    let stream = match TcpStream::connect(address).await {
        Ok(stream) => stream,
        Err(error) => return Outcome::Lost(Lost::Connect(error.to_string())),
    };
    match exchange(stream, host, id).await {
        Ok(outcome) => outcome,
        Err(error) => Outcome::Lost(Lost::NoAnswer(format!("{error:?}"))),
    }
}

async fn exchange(stream: TcpStream, host: &str, id: &str) -> anyhow::Result<Outcome> {
    stream.set_nodelay(true)?;
    let (mut sender, connection) =
        http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let message = message(id);
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{host}/e2e.Service/Echo"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header("x-request-id", id)
        .body(Full::new(message.clone()))?;
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = body.collect().await?;
    connection.abort();
    let status = body.trailers().or(Some(&head.headers)).and_then(|trailers| trailers.get("grpc-status"));
    let by = head.headers.get("x-run").and_then(|run| run.to_str().ok()).unwrap_or_default().to_owned();
    let in_trailers = body.trailers().is_some();
    let (status, body) = (status.cloned(), body.to_bytes());
    if head.status == 200
        && in_trailers
        && status.as_ref().is_some_and(|status| status == "0")
        && body == message
    {
        return Ok(Outcome::Answered { by });
    }
    let text = format!("grpc-status {status:?} in trailers: {in_trailers}, {body:?}");
    Ok(Outcome::Lost(Lost::Status(head.status.as_u16(), text)))
}

/// As it is on the wire: not compressed, its length, itself.
fn message(text: &str) -> Bytes {
    let length = u32::try_from(text.len()).unwrap_or_default();
    let mut message = vec![0];
    message.extend(length.to_be_bytes());
    message.extend(text.bytes());
    message.into()
}
