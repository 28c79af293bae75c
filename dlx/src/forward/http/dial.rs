//! New connections to resources.

use std::{io, time::Duration};

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{net::TcpStream, time::timeout};

use super::{RequestBody, library_body::LibraryBodyError, upstream::Upstream};
use crate::{answer::explain, client::alive, state::EndpointTarget};

/// Why a resource could not be reached, or did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    #[error("cannot connect to {address}: {source}")]
    Connect { address: String, source: io::Error },
    #[error("cannot speak {protocol} to {address}: {source}")]
    Handshake { protocol: &'static str, address: String, source: hyper::Error },
    #[error("{}", explain(.0))]
    Exchange(#[from] hyper::Error),
    #[error("it closed the connection before the end of its response")]
    Incomplete,
    #[error("the client broke off the request: {0}")]
    Abandoned(String),
    #[error("its response cannot be read: {0}")]
    Malformed(&'static str),
    #[error("its response has an invalid chunk")]
    BrokenChunk,
    #[error("its response cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("it switched protocols without being asked")]
    UnrequestedSwitch,
    #[error("the Transfer-Encoding of its response is not exactly chunked")]
    TransferCoding,
}

impl From<LibraryBodyError> for UpstreamError {
    fn from(error: LibraryBodyError) -> Self {
        match error {
            LibraryBodyError::Read(error) => Self::Exchange(error),
            LibraryBodyError::Reset => Self::Incomplete,
        }
    }
}

/// The timeout for connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A TCP connection to an endpoint.
pub(crate) async fn dial(target: &EndpointTarget) -> Result<TcpStream, UpstreamError> {
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
    let stream = stream
        .map_err(|source| UpstreamError::Connect { address: target.endpoint.address.clone(), source })?;
    // Without it small writes wait for an acknowledgement; on failure they do.
    let _ = stream.set_nodelay(true);
    alive::watch(&stream);
    Ok(stream)
}

/// A connection that speaks HTTP/2.
pub(crate) async fn dial_http2(
    target: &EndpointTarget,
) -> Result<(http2::SendRequest<RequestBody>, Upstream), UpstreamError> {
    let upstream = Upstream::new(dial(target).await?);
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .handshake(TokioIo::new(upstream.clone()))
        .await
        .map_err(|source| UpstreamError::Handshake {
            protocol: "HTTP/2",
            address: target.endpoint.address.clone(),
            source,
        })?;
    tokio::spawn(async move { drop(connection.await) });
    Ok((sender, upstream))
}
