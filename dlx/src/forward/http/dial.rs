//! New connections to resources.

use std::{io, time::Duration};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{net::TcpStream, time::timeout};

use super::{RequestBody, upstream::Upstream};
use crate::{client::alive, identify::head::MAX_FIELDS, state::EndpointTarget};

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A TCP connection to an endpoint.
pub(crate) async fn dial(target: &EndpointTarget) -> Result<TcpStream, String> {
    let connecting = async {
        match target.socket {
            Some(address) => TcpStream::connect(address).await,
            None => TcpStream::connect(&target.endpoint.address).await,
        }
    };
    let stream: io::Result<TcpStream> = match timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    let stream = stream.map_err(|error| format!("cannot connect to {}: {error}", target.endpoint.address))?;
    // Without it: small writes wait for an acknowledgement; with it failing, nothing worse.
    let _ = stream.set_nodelay(true);
    alive::watch(&stream);
    Ok(stream)
}

/// A connection that speaks HTTP/1.1.
pub(crate) async fn dial_http1(
    target: &EndpointTarget,
) -> Result<(http1::SendRequest<RequestBody>, Upstream), String> {
    let upstream = Upstream::new(dial(target).await?);
    let (sender, connection) = http1::Builder::new()
        // One copy of a small body costs less than a second piece to write.
        .writev(false)
        .max_headers(MAX_FIELDS)
        .handshake(TokioIo::new(upstream.clone()))
        .await
        .map_err(|error| format!("cannot speak HTTP/1 to {}: {error}", target.endpoint.address))?;
    // Its error is told to whoever waits for the response.
    tokio::spawn(async move { drop(connection.await) });
    Ok((sender, upstream))
}

/// A connection that speaks HTTP/2.
pub(crate) async fn dial_http2(
    target: &EndpointTarget,
) -> Result<(http2::SendRequest<RequestBody>, Upstream), String> {
    let upstream = Upstream::new(dial(target).await?);
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .handshake(TokioIo::new(upstream.clone()))
        .await
        .map_err(|error| format!("cannot speak HTTP/2 to {}: {error}", target.endpoint.address))?;
    tokio::spawn(async move { drop(connection.await) });
    Ok((sender, upstream))
}
