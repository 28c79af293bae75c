//! Ports that are HTTP by their name alone, with the protocols that real clients and servers speak on them.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::Ordering,
};

use scaler_types::{Phase, Port, Protocol, Resource};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, Command},
};

use crate::testing::{
    Site, free_range, local,
    plugin::{Plugin, endpoint},
    raw_at,
    service_ports::{connect, on_service_ports},
    status, until, upstream,
};

/// A resource behind a port that is HTTP as `guessed` says, awake at `address` or to be woken there.
async fn behind(address: SocketAddr, awake: bool, guessed: bool) -> (Site, u16) {
    let ports = free_range(1);
    let plugin = Plugin::at(address);
    plugin.add("a", |resource: &mut Resource| {
        match awake {
            true => (resource.replicas, resource.endpoints) = (1, vec![endpoint(address)]),
            false => resource.record.phase = Phase::Asleep,
        }
        resource.ports = vec![Port { listen: ports.first, target: None, protocol: Protocol::Http, guessed }];
    });
    (Site::start(plugin, on_service_ports(ports)).await, ports.first)
}

#[tokio::test(flavor = "multi_thread")]
async fn other_protocols_are_forwarded_as_tcp_and_http_as_http() {
    let echo = upstream::tcp_echo().await;
    for awake in [true, false] {
        let (site, port) = behind(echo, awake, true).await;
        let mut client = connect(port).await;
        // Undecided so far; then it cannot be HTTP any more.
        for piece in [&b"PING"[..], b"\r\n", b"GET / HTTP/1.1\r\n\r\n"] {
            client.write_all(piece).await.unwrap();
        }
        let mut back = [0; 24];
        client.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"PING\r\nGET / HTTP/1.1\r\n\r\n");
        assert_eq!((site.resource("a").counts.in_flight(), site.resource("a").counts.total()), (1, 1));
        assert_eq!(site.plugin.set_scales.load(Ordering::SeqCst), usize::from(!awake));
        // The client's end is passed on, too.
        client.shutdown().await.unwrap();
        assert_eq!(client.read(&mut back).await.unwrap(), 0);
        until("nothing in flight", || site.resource("a").counts.in_flight() == 0).await;
    }
    let (address, echo) = upstream::echo(async || ()).await;
    let (site, port) = behind(address, false, true).await;
    for _ in 0..2 {
        assert_eq!(status(&site.get_at(port, "/x").await), 200);
    }
    // An attempt at HTTP is held to HTTP's rules.
    let answer = raw_at(local(port), b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await;
    assert_eq!(status(&answer), 400, "{answer}");
    assert_eq!(echo.requests.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declared_http_port_forwards_and_wakes_for_http_only() {
    let (site, port) = behind(upstream::tcp_echo().await, false, false).await;
    for bytes in [&b"PING\r\n\r\n"[..], b"\0\0\0\x08\x04\xd2\x16\x2f", b"\x16\x03\x01\x02\0"] {
        let answer = raw_at(local(port), bytes).await;
        assert_eq!(status(&answer), 400, "{answer}");
    }
    assert_eq!(site.plugin.set_scales.load(Ordering::SeqCst), 0);
}

/// A client that waits for the server to speak first cannot be told from one that is slow.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_client_wakes_nothing() {
    let (site, port) = behind(upstream::tcp_echo().await, false, true).await;
    let mut silent = connect(port).await;
    silent.shutdown().await.unwrap();
    assert!(matches!(silent.read(&mut [0; 8]).await, Ok(0) | Err(_)));
    assert_eq!(site.plugin.set_scales.load(Ordering::SeqCst), 0);
}

/// A program whose end is the test's, without the rights of root where that is who runs the test: PostgreSQL refuses them.
fn unprivileged(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let is_root = rustix::process::getuid().is_root();
    let mut command = Command::new(if is_root { "setpriv".as_ref() } else { program.as_ref() });
    if is_root {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program.as_ref());
    }
    command.kill_on_drop(true).stdin(Stdio::null());
    command
}

fn postgres() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("apt-get install postgresql");
    versions.map(|version| version.unwrap().path()).max().expect("apt-get install postgresql").join("bin")
}

/// A server of this folder, and where it takes connections.
async fn start_postgres(data: &Path) -> (Child, SocketAddr) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut initdb = unprivileged(postgres().join("initdb"));
    initdb.arg("--pgdata").arg(data);
    initdb.args(["--username=postgres", "--auth=trust", "--no-sync", "--no-locale", "--encoding=UTF8"]);
    let made = initdb.output().await.unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut server = unprivileged(postgres().join("postgres"));
    server.arg("-D").arg(data).args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
    server.args(["-c", "unix_socket_directories=", "-c", "fsync=off"]).stderr(Stdio::piped());
    let mut server = server.spawn().unwrap();
    let mut lines = BufReader::new(server.stderr.take().unwrap()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        if line.contains("ready to accept connections") {
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return (server, local(port));
        }
    }
    panic!("PostgreSQL ended");
}

/// CockroachDB's manifest calls the port of PostgreSQL's protocol `grpc`.
#[tokio::test(flavor = "multi_thread")]
async fn postgresql_is_spoken_on_a_port_named_grpc() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    if rustix::process::getuid().is_root() {
        std::fs::create_dir(&data).unwrap();
        let chown =
            |path: &Path| std::process::Command::new("chown").arg("postgres:postgres").arg(path).status();
        assert!(chown(folder.path()).unwrap().success() && chown(&data).unwrap().success());
    }
    let (mut server, address) = start_postgres(&data).await;
    for awake in [true, false] {
        let (site, port) = behind(address, awake, true).await;
        // Asked for TLS first, as most clients do; and without.
        for mode in ["prefer", "disable"] {
            let query = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres sslmode={mode}");
            let output = Command::new("psql").args([&*query, "-Atc", "select 6 * 7"]).output().await.unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "42", "{awake} {mode}: {error}");
        }
        assert_eq!(site.plugin.set_scales.load(Ordering::SeqCst), usize::from(!awake));
    }
    server.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_spoken_on_a_port_named_http() {
    let folder = tempfile::tempdir().unwrap();
    let (key, certificate) = (folder.path().join("key"), folder.path().join("certificate"));
    let mut openssl = Command::new("openssl");
    openssl
        .args(["req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=localhost", "-keyout"])
        .arg(&key);
    assert!(openssl.arg("-out").arg(&certificate).output().await.unwrap().status.success());
    let number = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut server = Command::new("openssl");
    server.args(["s_server", "-www", "-accept", &format!("127.0.0.1:{number}"), "-key"]).arg(&key);
    server.arg("-cert").arg(&certificate).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut server = server.spawn().unwrap();
    let mut output = BufReader::new(server.stdout.take().unwrap()).lines();
    while output.next_line().await.unwrap().expect("openssl ended") != "ACCEPT" {}
    tokio::spawn(async move { while let Ok(Some(_)) = output.next_line().await {} });
    for awake in [true, false] {
        let (site, port) = behind(local(number), awake, true).await;
        let url = format!("https://127.0.0.1:{port}/");
        let output =
            Command::new("curl").args(["-sSk", "-o", "/dev/null", "-w", "%{http_code}", &url]).output().await;
        let output = output.unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "200", "{awake}: {error}");
        assert_eq!(site.plugin.set_scales.load(Ordering::SeqCst), usize::from(!awake));
    }
}
