//! Resources with ports of `--service-ports`, and their clients.

use std::net::SocketAddr;

use scaler_types::{Port, Protocol, Resource, ServicePorts};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{EVENT_TIMEOUT, Site, SiteOptions, local, plugin::endpoint, upstream};

pub(crate) fn port(listen: u16, protocol: Protocol) -> Vec<Port> {
    vec![Port { listen, target: None, protocol, guessed: false }]
}

pub(crate) fn on_service_ports(ports: ServicePorts) -> SiteOptions {
    SiteOptions { service_ports: Some(ports), ..SiteOptions::default() }
}

/// Makes a resource awake at `address`, with this port.
pub(crate) fn awake_on_port(
    address: SocketAddr,
    listen: u16,
    protocol: Protocol,
) -> impl FnOnce(&mut Resource) {
    move |resource| {
        resource.replicas = 1;
        resource.endpoints = vec![endpoint(address)];
        resource.ports = port(listen, protocol);
    }
}

/// A server that sends its name to each connection, and again for each byte it gets.
pub(crate) async fn start_name_server(name: u8) -> SocketAddr {
    upstream::raw(move |mut stream, _| async move {
        let mut byte = [0];
        while stream.write_all(&[name]).await.is_ok() && stream.read_exact(&mut byte).await.is_ok() {}
    })
    .await
}

pub(crate) async fn connect(port: u16) -> TcpStream {
    TcpStream::connect(local(port)).await.unwrap()
}

pub(crate) async fn read_name(stream: &mut TcpStream) -> u8 {
    timeout(EVENT_TIMEOUT, stream.read_u8()).await.expect("a name").unwrap()
}

/// The resource that owns the port.
pub(crate) fn port_owner(site: &Site, port: u16) -> Option<String> {
    site.dlx.resources.table().by_port(port).map(|identity| identity.resource.key.id.name.clone())
}
