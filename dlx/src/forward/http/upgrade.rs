//! Protocol switches (WebSocket): after the 101, bytes are copied both ways, and the request counts as in flight.

use std::{pin::pin, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Request, Response, Version, header};
use hyper::{body::Incoming, client::conn::http1, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy, split},
    time::timeout,
};

use super::{ConnectionContext, RequestBody, ResponseBody, dial, pool::Unsent, resend};
use crate::{
    identify::head::MAX_FIELDS,
    state::{EndpointTarget, InFlight},
};

/// How long a client may continue after its resource has half-closed. The request is in flight meanwhile: a client that
/// forgets its connection must not keep the resource awake.
const HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(30);

/// The protocol a request asks to switch to.
pub(crate) fn requested_protocol(headers: &HeaderMap, version: Version) -> Option<HeaderValue> {
    let upgrade = headers.get(header::UPGRADE).filter(|_| version == Version::HTTP_11)?;
    // Not to HTTP/2, alone or in a list: that would bypass the proxy.
    let mut words = headers
        .get_all(header::UPGRADE)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    if words.any(|word| word.trim_ascii().to_ascii_lowercase().starts_with(b"h2")) {
        return None;
    }
    let says = headers.get_all(header::CONNECTION).iter().any(|value| {
        value
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(|word| word.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
    });
    says.then(|| upgrade.clone())
}

/// Sends a request on a connection of its own. Taken out of its place, unless it was not sent.
pub(crate) async fn send(
    target: &EndpointTarget,
    request: &mut Request<RequestBody>,
) -> Result<Response<Incoming>, Unsent> {
    let stream = match dial(target).await {
        Ok(stream) => stream,
        Err(error) => return Err(Unsent::Never(error)),
    };
    let (mut sender, connection) =
        match http1::Builder::new().max_headers(MAX_FIELDS).handshake(TokioIo::new(stream)).await {
            Ok(both) => both,
            Err(error) => return Err(Unsent::Never(error.into())),
        };
    tokio::spawn(async move { drop(connection.with_upgrades().await) });
    sender.try_send_request(resend::take(request)).await.map_err(|mut failed| match failed.take_message() {
        Some(again) => {
            *request = again;
            Unsent::Never(failed.into_error().into())
        }
        None => Unsent::perhaps(failed.into_error()),
    })
}

/// The 101 for the client; a task copies from then on.
pub(crate) fn switch(
    mut response: Response<Incoming>,
    client: Option<OnUpgrade>,
    in_flight: InFlight,
    context: Arc<ConnectionContext>,
) -> Response<ResponseBody> {
    let protocol = response.headers().get(header::UPGRADE).cloned();
    let upstream = hyper::upgrade::on(&mut response);
    tokio::spawn(async move {
        let Some(client) = client else { return };
        let (client, upstream) = match tokio::join!(client, upstream) {
            (Ok(client), Ok(upstream)) => (client, upstream),
            (client, upstream) => {
                let error = client.err().or(upstream.err());
                tracing::debug!(resource = %in_flight.resource().key.id, ?error, "protocol switch failed");
                return;
            }
        };
        let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
        copy_both(&mut client, &mut upstream).await;
        // Its connection counts as open until here.
        drop((in_flight, context));
    });
    super::headers::strip(response.headers_mut());
    let mut response = response.map(|_| ResponseBody::empty());
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        headers.insert(header::UPGRADE, protocol);
    }
    response
}

/// Copies both ways until both have ended, one breaks, or the resource has ended and the client's time is over.
async fn copy_both<A, B>(client: &mut A, upstream: &mut B)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let ((mut from_client, mut to_client), (mut from_resource, mut to_resource)) =
        (split(client), split(upstream));
    let up = async {
        copy(&mut from_client, &mut to_resource).await?;
        to_resource.shutdown().await
    };
    let down = async {
        copy(&mut from_resource, &mut to_client).await?;
        to_client.shutdown().await
    };
    let (mut up, mut down) = (pin!(up), pin!(down));
    // An error: one side broke, and so does the other.
    let _ = tokio::select! {
        ended = &mut up => match ended {
            Ok(()) => down.await,
            gone => gone,
        },
        ended = &mut down => match ended {
            Ok(()) => timeout(HALF_CLOSED_TIMEOUT, up).await.unwrap_or(Ok(())),
            gone => gone,
        },
    };
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, duplex};

    use super::*;

    /// The resource has ended; the client neither sends nor ends.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_forgets_its_connection_is_disconnected() {
        let ((_client, mut a), (upstream, mut b)) = (duplex(64), duplex(64));
        drop(upstream);
        timeout(HALF_CLOSED_TIMEOUT * 2, copy_both(&mut a, &mut b)).await.expect("an end");
    }

    /// The client half-closes, and takes its time to read.
    #[tokio::test(start_paused = true)]
    async fn a_half_closed_client_gets_the_whole_answer() {
        let ((mut client, mut a), (mut upstream, mut b)) = (duplex(64), duplex(64));
        let copying = tokio::spawn(async move { copy_both(&mut a, &mut b).await });
        client.write_all(b"ask").await.unwrap();
        client.shutdown().await.unwrap();
        let mut received = String::new();
        upstream.read_to_string(&mut received).await.unwrap();
        assert_eq!(received, "ask");
        tokio::time::advance(HALF_CLOSED_TIMEOUT * 10).await;
        upstream.write_all(b"answer").await.unwrap();
        drop(upstream);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
        drop(client);
        copying.await.unwrap();
    }

    fn parse(upgrades: &[&'static str]) -> Option<HeaderValue> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        for upgrade in upgrades {
            headers.append(header::UPGRADE, HeaderValue::from_static(upgrade));
        }
        requested_protocol(&headers, Version::HTTP_11)
    }

    #[test]
    fn upgrades_to_http2_are_refused_also_in_a_list() {
        assert_eq!(parse(&["websocket"]).unwrap(), "websocket");
        for upgrades in [&["h2c"][..], &["websocket, H2C"], &["a", "b,\th2c"], &["h2"]] {
            assert_eq!(parse(upgrades), None, "{upgrades:?}");
        }
        assert_eq!(parse(&[]), None);
    }
}
