//! Switches of protocol (WebSocket): after the 101, bytes are copied both ways, and it counts as in flight.

use http::{HeaderMap, HeaderValue, Request, Response, Version, header};
use hyper::{body::Incoming, client::conn::http1, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use super::{
    Relay, Upload,
    pool::{Unsent, dial, explain},
};
use crate::{
    dlx::Open,
    resource::{InFlight, Target},
};

/// The protocol a request asks to switch to.
pub fn wanted(headers: &HeaderMap, version: Version) -> Option<HeaderValue> {
    let upgrade = headers.get(header::UPGRADE).filter(|_| version == Version::HTTP_11)?;
    // Not to HTTP/2: that would get around everything the proxy does.
    if upgrade.as_bytes().to_ascii_lowercase().starts_with(b"h2c") {
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

/// Sends a request on a connection of its own.
pub async fn send(target: &Target, request: Request<Upload>) -> Result<Response<Incoming>, Unsent> {
    let stream = match dial(target).await {
        Ok(stream) => stream,
        Err(error) => return Err(Unsent::Never(Box::new(request), error)),
    };
    let (mut sender, connection) = match http1::handshake(TokioIo::new(stream)).await {
        Ok(both) => both,
        Err(error) => return Err(Unsent::Never(Box::new(request), explain(&error))),
    };
    tokio::spawn(async move { drop(connection.with_upgrades().await) });
    sender.try_send_request(request).await.map_err(|mut failed| match failed.take_message() {
        Some(again) => Unsent::Never(Box::new(again), explain(failed.error())),
        None => Unsent::Perhaps(explain(failed.error())),
    })
}

/// The 101 as the client gets it; from then on a task copies.
pub fn switch(
    mut response: Response<Incoming>,
    client: Option<OnUpgrade>,
    in_flight: InFlight,
    open: Open,
) -> Response<Relay> {
    let protocol = response.headers().get(header::UPGRADE).cloned();
    let resource = hyper::upgrade::on(&mut response);
    tokio::spawn(async move {
        let Some(client) = client else { return };
        let (client, resource) = match tokio::join!(client, resource) {
            (Ok(client), Ok(resource)) => (client, resource),
            (client, resource) => {
                let error = client.err().or(resource.err());
                tracing::debug!(resource = %in_flight.entry().key.id, ?error, "a switch of protocols did not come about");
                return;
            }
        };
        let (mut client, mut resource) = (TokioIo::new(client), TokioIo::new(resource));
        // An error: one of them went away, and so does the other.
        let _ = copy_bidirectional(&mut client, &mut resource).await;
        drop((in_flight, open));
    });
    super::head::strip(response.headers_mut());
    let mut response = response.map(|_| Relay::empty());
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        headers.insert(header::UPGRADE, protocol);
    }
    response
}
