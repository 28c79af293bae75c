//! A proxy in front of a broker. It misbehaves as a test sets.

use std::{net::Ipv4Addr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::wait::pause;

/// What becomes of the connections to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// They are forwarded.
    Forward,
    /// Each answer is delayed by this.
    Slow(Duration),
    /// Whatever is asked, the answer is no word of the broker's protocol.
    Nonsense,
    /// They are closed as soon as they were accepted.
    Refuse,
}

/// The proxy.
#[derive(Debug)]
pub struct BrokerProxy {
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    behaviour: watch::Sender<Behaviour>,
}

// === impl BrokerProxy ===

impl BrokerProxy {
    /// In front of the broker at that port; it forwards. To be called on a tokio runtime.
    ///
    /// # Panics
    ///
    /// There is no free port.
    pub async fn start(broker: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("binding the proxy's port");
        let port = listener.local_addr().expect("the proxy's address").port();
        let (behaviour, now) = watch::channel(Behaviour::Forward);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let mut now = now.clone();
                let behaviour = *now.borrow_and_update();
                tokio::spawn(async move {
                    tokio::select! {
                        // Either side closed the connection.
                        _ = serve(client, broker, behaviour) => {}
                        // It stopped, or behaves in another way from now on.
                        _ = now.changed() => {}
                    }
                });
            }
        });
        Self { port, behaviour }
    }

    /// Behaves like this from now on; all connections that there are close.
    pub fn set(&self, behaviour: Behaviour) {
        self.behaviour.send_replace(behaviour);
    }
}

async fn serve(mut client: TcpStream, broker: u16, behaviour: Behaviour) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let late = match behaviour {
        Behaviour::Refuse => return Ok(()),
        Behaviour::Nonsense => {
            while client.read(&mut buffer).await? > 0 {
                client.write_all(b"\x00\xff<html>418\r\n").await?;
            }
            return Ok(());
        }
        Behaviour::Forward => Duration::ZERO,
        Behaviour::Slow(late) => late,
    };
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, broker)).await?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let there = tokio::io::copy(&mut from_client, &mut to_server);
    let back = async {
        loop {
            let read = from_server.read(&mut buffer).await?;
            if read == 0 {
                return Ok(());
            }
            if !late.is_zero() {
                pause(late).await;
            }
            to_client.write_all(&buffer[..read]).await?;
        }
    };
    tokio::select! {
        ended = there => ended.map(drop),
        ended = back => ended,
    }
}
