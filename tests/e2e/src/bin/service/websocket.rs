//! A WebSocket that echoes.

use e2e::websocket::{Kind, Message, accept, read, write};
use http::{HeaderValue, Request, StatusCode, header};
use hyper::{body::Incoming, upgrade};
use hyper_util::rt::TokioIo;

use crate::{Answer, text};

/// Upgrades to one; nothing for other requests.
pub fn open(request: &mut Request<Incoming>) -> Answer {
    let Some(key) = request.headers().get("sec-websocket-key").cloned() else {
        let mut answer = text("a WebSocket is to be asked for\n".into());
        *answer.status_mut() = StatusCode::UPGRADE_REQUIRED;
        return answer;
    };
    let upgraded = upgrade::on(request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgraded.await {
            let mut stream = TokioIo::new(upgraded);
            while let Ok(message) = read(&mut stream).await {
                let last = message.kind == Kind::Close;
                let kind = if message.kind == Kind::Ping { Kind::Pong } else { message.kind };
                if write(&mut stream, &Message { kind, ..message }, None).await.is_err() || last {
                    return;
                }
            }
        }
    });
    let mut answer = text(String::new());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accepted) = HeaderValue::from_str(&accept(key.as_bytes())) {
        headers.insert("sec-websocket-accept", accepted);
    }
    answer
}
