//! A client of a WebSocket that echoes.

use std::{io, net::SocketAddr};

use tokio::io::AsyncWriteExt as _;

use super::{Connection, Lost};
use crate::websocket::{Kind, Message, accept, read, write};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];

/// An open WebSocket.
#[derive(Debug)]
pub struct WebSocket(Connection);

// === impl WebSocket ===

impl WebSocket {
    /// Connects and upgrades; a request by that id for a server that writes requests down.
    ///
    /// # Errors
    ///
    /// As it was lost.
    pub async fn open(address: SocketAddr, host: &str, id: &str) -> Result<Self, Lost> {
        let connect = |error: io::Error| Lost::Connect(error.to_string());
        let mut connection = Connection::open(address).await.map_err(connect)?;
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: {host}\r\nx-request-id: {id}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
        );
        connection.stream().write_all(request.as_bytes()).await.map_err(connect)?;
        let head = connection.receive().await?;
        let accepted = head.header("sec-websocket-accept") == Some(accept(KEY.as_bytes()).as_str());
        if head.status != 101 || !accepted {
            return Err(Lost::Status(head.status, head.text()));
        }
        Ok(Self(connection))
    }

    /// Sends a text and waits for its echo.
    ///
    /// # Errors
    ///
    /// Something else came, or nothing.
    pub async fn echo(&mut self, text: &str) -> Result<(), Lost> {
        self.exchange(Kind::Text, text, Kind::Text).await
    }

    /// Whether the other side is there.
    ///
    /// # Errors
    ///
    /// Something else came, or nothing.
    pub async fn ping(&mut self) -> Result<(), Lost> {
        self.exchange(Kind::Ping, "there?", Kind::Pong).await
    }

    /// Ends it, as the protocol has it.
    ///
    /// # Errors
    ///
    /// Something else came, or nothing.
    pub async fn close(mut self) -> Result<(), Lost> {
        self.exchange(Kind::Close, "", Kind::Close).await
    }

    async fn exchange(&mut self, kind: Kind, text: &str, wanted: Kind) -> Result<(), Lost> {
        let lost = |error: io::Error| Lost::NoAnswer(error.to_string());
        let message = Message { kind, payload: text.as_bytes().to_vec() };
        write(self.0.stream(), &message, Some(MASK)).await.map_err(lost)?;
        let answer = read(self.0.stream()).await.map_err(lost)?;
        if answer == (Message { kind: wanted, ..message }) {
            Ok(())
        } else {
            Err(Lost::CutShort(format!("{answer:?}")))
        }
    }
}
