//! The proxies of a lane, each in front of a recorder of its own: a DLX with the relay, a DLX with the HTTP library alone,
//! and nginx and HAProxy where they are installed.

use std::{
    env, fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use scaler_types::{Endpoint, Probe, Protocol};
use tempfile::TempDir;

use super::{
    recorder::{Recorder, pause},
    requests::HOST,
};
use crate::testing::{
    Site, SiteOptions, free_range, local,
    plugin::{Plugin, endpoint},
    service_ports::port,
    until,
};

/// A DLX and its resource.
pub(super) struct Dlx {
    site: Site,
    pub(super) recorder: Recorder,
    own_port: SocketAddr,
}

/// Another proxy and its resource.
pub(super) struct Peer {
    pub(super) name: &'static str,
    pub(super) address: SocketAddr,
    pub(super) recorder: Recorder,
}

/// The processes of the other proxies.
#[derive(Default)]
pub(super) struct Processes {
    children: Vec<Child>,
    _folders: Vec<TempDir>,
}

// === impl Dlx ===

impl Dlx {
    pub(super) async fn start(relay: bool) -> Self {
        let recorder = Recorder::start().await;
        let ports = free_range(1);
        let plugin = Plugin::at(recorder.address);
        plugin.add("a", |resource| {
            resource.replicas = 1;
            resource.hosts = vec![HOST.to_owned()];
            resource.ports = port(ports.first, Protocol::Http);
        });
        let options = SiteOptions { relay, service_ports: Some(ports), ..SiteOptions::default() };
        let site = Site::start(plugin, options).await;
        Self { site, recorder, own_port: local(ports.first) }
    }

    pub(super) fn address(&self, own_port: bool) -> SocketAddr {
        if own_port { self.own_port } else { self.site.address }
    }

    /// Begins anew with the resource: nothing that it did before counts, and no connection to it is kept.
    pub(super) async fn renew(&self) {
        let endpoint = Endpoint { probe: Probe::Listed, ..endpoint(self.recorder.address) };
        let incarnation = endpoint.incarnation.clone();
        self.site.plugin.change("a", |resource| resource.endpoints = vec![endpoint]);
        let resource = self.site.resource("a");
        until("the new endpoint is ready", || {
            let ready = &resource.snapshot.load().ready;
            ready.len() == 1 && ready[0].endpoint.incarnation == incarnation
        })
        .await;
    }

    /// Whether nothing is in flight and nothing held any more, or will be soon.
    pub(super) async fn settles(&self, within: Duration) -> bool {
        let resource = self.site.resource("a");
        let deadline = Instant::now() + within;
        while resource.counts.in_flight() > 0 || !resource.queue.is_empty() {
            if Instant::now() > deadline {
                return false;
            }
            pause().await;
        }
        true
    }
}

// === impl Processes ===

impl Processes {
    /// Starts nginx and HAProxy, each with as many ports as there are lanes; those of each lane.
    pub(super) async fn start(lanes: usize) -> (Self, Vec<Vec<Peer>>) {
        let mut processes = Self::default();
        let mut peers: Vec<Vec<Peer>> = (0..lanes).map(|_| Vec::new()).collect();
        for (name, configure) in [("nginx", nginx as Configure), ("haproxy", haproxy)] {
            let Some(program) = find(name) else {
                println!("{name} is not installed: not compared with it");
                continue;
            };
            let folder = tempfile::tempdir().unwrap();
            let ports = free_range(lanes as u16);
            let mut routes = Vec::new();
            for (port, lane) in ports.all().zip(&mut peers) {
                let recorder = Recorder::start().await;
                routes.push((port, recorder.address.port()));
                lane.push(Peer { name, address: local(port), recorder });
            }
            let file = folder.path().join("conf");
            fs::write(&file, configure(&folder.path().display().to_string(), &routes)).unwrap();
            let mut command = Command::new(program);
            match name {
                "nginx" => command.arg("-p").arg(folder.path()).arg("-e").arg("stderr").arg("-c").arg(&file),
                _ => command.arg("-db").arg("-f").arg(&file),
            };
            let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
            processes.children.push(child);
            processes._folders.push(folder);
            for (port, _) in routes {
                until(name, || std::net::TcpStream::connect(local(port)).is_ok()).await;
            }
        }
        (processes, peers)
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A configuration with these ports, each in front of a port of a resource.
type Configure = fn(&str, &[(u16, u16)]) -> String;

fn nginx(folder: &str, routes: &[(u16, u16)]) -> String {
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("    {what}_temp_path {folder}/{what};\n"))
        .concat();
    let servers: String = routes
        .iter()
        .map(|(port, to)| {
            format!("    server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{to}; }} }}\n")
        })
        .collect();
    format!(
        "daemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log stderr emerg;\nevents {{ worker_connections 512; }}\nhttp {{\n\
         {temporary}    access_log off;\n    client_max_body_size 0;\n    large_client_header_buffers 8 128k;\n    lingering_close off;\n\
             underscores_in_headers on;\n    proxy_http_version 1.1;\n    proxy_set_header Host $http_host;\n    proxy_set_header Connection \"\";\n\
             proxy_next_upstream off;\n{servers}}}\n"
    )
}

fn haproxy(_: &str, routes: &[(u16, u16)]) -> String {
    let listens: String = routes
        .iter()
        .map(|(port, to)| format!("listen l{port}\n  bind 127.0.0.1:{port}\n  server s 127.0.0.1:{to}\n"))
        .collect();
    format!(
        "global\n  nbthread 1\n  maxconn 500\n  tune.bufsize 131072\n  tune.http.maxhdr 2000\ndefaults\n  mode http\n  retries 0\n  \
         http-reuse never\n  timeout connect 10s\n  timeout client 60s\n  timeout server 60s\n  timeout http-request 60s\n{listens}"
    )
}

/// A program on the path, or in the folders of system programs that a user's path may lack.
fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(more).map(|folder| folder.join(program)).find(|file| file.is_file())
}
