//! The listener: HTTP/1.1 and HTTP/2 on one port, closed and opened again for an outage.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use crate::server::Server;

/// Listens on `address`, whose port may be 0.
///
/// # Errors
///
/// The address is taken or not of this machine.
pub fn bind(address: SocketAddr) -> Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address).with_context(|| format!("listening on {address}"))?;
    listener.set_nonblocking(true).with_context(|| format!("setting up the listener on {address}"))?;
    Ok(listener)
}

/// Serves until dropped.
pub async fn serve(server: Arc<Server>, first: std::net::TcpListener, address: SocketAddr) -> Result<()> {
    let mut outage = server.faults.outages();
    let mut listener = Some(first);
    loop {
        let open = match listener.take() {
            Some(open) => open,
            // It was ours until the outage began.
            None => bind(address)?,
        };
        let open = TcpListener::from_std(open).context("handing the listener to the runtime")?;
        until_outage(&server, open, &mut outage).await;
        outage.wait_for(|out| *out == 0).await.context("the faults are gone")?;
    }
}

/// Accepts and serves; when an outage begins, every connection is dropped where it stands.
async fn until_outage(server: &Arc<Server>, listener: TcpListener, outage: &mut watch::Receiver<usize>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(connection(Arc::clone(server), stream));
                }
            }
            Some(_) = connections.join_next() => {}
            _ = outage.wait_for(|out| *out > 0) => return,
        }
    }
}

async fn connection(server: Arc<Server>, stream: TcpStream) {
    // Watches send small pieces that are waited for.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let server = Arc::clone(&server);
        async move { Ok::<_, Infallible>(server.answer(request).await) }
    });
    let serving = auto::Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await;
    if let Err(error) = serving {
        tracing::debug!(%error, "a connection ended early");
    }
}
