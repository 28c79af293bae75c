//! The options of clients' connections, read from the sockets that the DLX accepted.

use std::{fs, net::SocketAddr, os::fd::OwnedFd, time::Duration};

use daemon::listen::InheritedSockets;
use rustix::{
    net::{getpeername, sockopt},
    process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open},
};
use scaler_types::{Port, Protocol};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::testing::{
    Site, free_range, local,
    plugin::Plugin,
    service_ports::{awake_on_port, connect, on_service_ports, read_name, start_name_server},
    until, upstream,
};

/// A descriptor of the socket that this process has accepted from `client`.
fn accepted(client: &TcpStream) -> Option<OwnedFd> {
    let this = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    let client = client.local_addr().unwrap();
    fs::read_dir("/proc/self/fd").unwrap().find_map(|entry| {
        let number = entry.unwrap().file_name().to_str()?.parse().unwrap();
        let descriptor = pidfd_getfd(&this, number, PidfdGetfdFlags::empty()).ok()?;
        let peer = SocketAddr::try_from(getpeername(&descriptor).ok()??).ok()?;
        let same = peer.port() == client.port() && peer.ip().to_canonical() == client.ip();
        same.then_some(descriptor)
    })
}

/// How long the client may leave bytes unread; the other options are the same for all.
async fn watched(client: &TcpStream) -> Duration {
    until("it is accepted", || accepted(client).is_some()).await;
    let socket = accepted(client).unwrap();
    assert!(sockopt::tcp_nodelay(&socket).unwrap());
    assert!(sockopt::socket_keepalive(&socket).unwrap());
    assert_eq!(sockopt::tcp_keepidle(&socket).unwrap(), Duration::from_secs(60));
    assert_eq!(sockopt::tcp_keepintvl(&socket).unwrap(), Duration::from_secs(15));
    assert_eq!(sockopt::tcp_keepcnt(&socket).unwrap(), 4);
    Duration::from_millis(sockopt::tcp_user_timeout(&socket).unwrap().into())
}

#[tokio::test(flavor = "multi_thread")]
async fn http_clients_must_read_and_tcp_clients_need_not() {
    let ports = free_range(4);
    let [http, guessed, tcp, own] = [0, 1, 2, 3].map(|offset| ports.first + offset);
    let service_ports = scaler_types::ServicePorts { first: http, last: tcp };
    let plugin = Plugin::at("127.0.0.1:1");
    let (names, echo) = (start_name_server(b'x').await, upstream::tcp_echo().await);
    plugin.add("http", awake_on_port(echo, http, Protocol::Http));
    plugin.add("tcp", awake_on_port(names, tcp, Protocol::Tcp));
    plugin.add("own", awake_on_port(names, own, Protocol::Tcp));
    plugin.add("guessed", |resource| {
        awake_on_port(echo, guessed, Protocol::Http)(resource);
        resource.ports =
            vec![Port { listen: guessed, target: None, protocol: Protocol::Http, guessed: true }];
    });
    let site = Site::start(plugin, on_service_ports(service_ports)).await;
    let (bound, server, workers) = (site.dlx.ports.clone(), site.dlx.server.clone(), site.workers.clone());
    let ip = local(own).ip();
    tokio::spawn(async move { bound.follow(server, workers, InheritedSockets::default(), ip).await });
    until("bound", || site.dlx.ports.all().iter().any(|bound| bound.error.is_none())).await;

    let stall = site.dlx.server.timeouts.stall;
    assert_eq!(watched(&site.connect().await).await, stall);
    assert_eq!(watched(&connect(http).await).await, stall);
    for port in [tcp, own] {
        let mut client = connect(port).await;
        read_name(&mut client).await;
        assert_eq!(watched(&client).await, Duration::ZERO);
    }
    let mut client = connect(guessed).await;
    assert_eq!(watched(&client).await, stall, "it may speak HTTP");
    client.write_all(b"PING\r\n").await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), b'P');
    assert_eq!(watched(&client).await, Duration::ZERO);
}
