//! The other proxies, each set up as its manual says for a warm reverse proxy.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{upstream::nginx_paths, workloads::Entries};
use crate::{install, scene::free_port, steps::pause};

/// What does not come from this workspace.
pub struct Programs {
    /// The upstream, and one of the peers.
    pub nginx: PathBuf,
    /// A peer.
    pub haproxy: PathBuf,
    /// The client for HTTP/1.1.
    pub wrk: PathBuf,
    /// The client for HTTP/2.
    pub h2load: PathBuf,
    /// A peer; without it, why.
    pub envoy: Result<PathBuf, String>,
    /// Builds the Go proxy; without it, why there is none.
    pub go: Result<PathBuf, String>,
}

/// A running proxy in front of the upstream. Dropped: it is stopped.
pub struct Peer {
    /// As in the table.
    pub name: &'static str,
    /// Where it listens.
    pub entries: Entries,
    child: Child,
}

/// `httputil.ReverseProxy` as its documentation shows it, with as many idle connections as there are clients.
const GO_PROXY: &str = r#"package main

import (
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
)

func main() {
	upstream, err := url.Parse("http://" + os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConns = 0
	transport.MaxIdleConnsPerHost = 1024
	proxy := httputil.NewSingleHostReverseProxy(upstream)
	proxy.Transport = transport
	log.Fatal(http.ListenAndServe(os.Args[1], proxy))
}
"#;

/// What the peers are set up with.
struct Setup<'a> {
    programs: &'a Programs,
    folder: &'a Path,
    upstream: SocketAddr,
    cores: usize,
    next_port: u16,
}

/// Builds and starts the peers: HAProxy alone, which every row is compared with, or all.
///
/// # Errors
///
/// One cannot be built, or does not listen.
pub async fn start(
    programs: &Programs,
    folder: &Path,
    upstream: SocketAddr,
    haproxy_alone: bool,
) -> Result<Vec<Peer>> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let mut setup = Setup { programs, folder, upstream, cores, next_port: 18_000 };
    let mut peers = vec![setup.haproxy()?];
    if !haproxy_alone {
        peers.insert(0, setup.nginx()?);
        if let Ok(program) = &programs.envoy {
            peers.push(setup.envoy(program)?);
        }
        if let Ok(program) = &programs.go {
            peers.push(setup.go(program)?);
        }
    }
    for peer in &peers {
        for address in std::iter::once(peer.entries.http).chain(peer.entries.tcp) {
            listening(peer.name, address).await?;
        }
    }
    Ok(peers)
}

/// The Go proxy's program, built once per text of its source.
fn go_proxy(go: &Path) -> Result<PathBuf> {
    let folder = crate::workspace::target().join("tools/go-proxy");
    let (source, program) = (folder.join("main.go"), folder.join("go-proxy"));
    if program.is_file() && fs::read_to_string(&source).is_ok_and(|text| text == GO_PROXY) {
        return Ok(program);
    }
    fs::create_dir_all(&folder)?;
    fs::write(&source, GO_PROXY)?;
    let mut build = Command::new(go);
    build.args(["build", "-o"]).arg(&program).arg(&source).current_dir(&folder);
    build.env("GO111MODULE", "off").env("GOCACHE", folder.join("cache")).env("GOFLAGS", "");
    crate::steps::run(&mut build)?;
    Ok(program)
}

async fn listening(name: &str, address: SocketAddr) -> Result<()> {
    let started = Instant::now();
    while TcpStream::connect(address).is_err() {
        if started.elapsed() > Duration::from_secs(10) {
            bail!("{name} does not listen on {address} after 10 s");
        }
        pause(Duration::from_millis(20)).await;
    }
    Ok(())
}

// === impl Programs ===

impl Programs {
    /// Finds them, or installs them. Without Envoy or Go the others are measured: neither is one of Debian's packages
    /// everywhere. `haproxy_alone`: neither is looked for.
    ///
    /// # Errors
    ///
    /// One of the others cannot be had.
    pub fn find(haproxy_alone: bool) -> Result<Self> {
        let other = |find: fn() -> Result<PathBuf>| {
            if haproxy_alone {
                return Err("left out by --quick".to_owned());
            }
            find().map_err(|error| format!("{error:#}"))
        };
        Ok(Self {
            nginx: install::apt("nginx", "nginx-light")?,
            haproxy: install::apt("haproxy", "haproxy")?,
            wrk: install::apt("wrk", "wrk")?,
            h2load: install::apt("h2load", "nghttp2-client")?,
            envoy: other(install::envoy),
            go: other(install::go),
        })
    }

    /// `(name, version)` of each, for the report; of a missing one, why it is missing.
    pub fn versions(&self) -> Vec<(&'static str, String)> {
        let version = |program: &Path, argument: &str| {
            let output = Command::new(program).arg(argument).output();
            let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
            // Envoy begins with its path.
            line.trim_start_matches(&*program.to_string_lossy()).trim().to_owned()
        };
        let other = |program: &Result<PathBuf, String>, argument: &str| match program {
            Ok(program) => version(program, argument),
            Err(reason) => format!("not measured: {reason}"),
        };
        vec![
            ("nginx", version(&self.nginx, "-v")),
            ("haproxy", version(&self.haproxy, "-v")),
            ("envoy", other(&self.envoy, "--version")),
            ("go", other(&self.go, "version")),
            ("wrk", version(&self.wrk, "-v")),
            ("h2load", version(&self.h2load, "--version")),
        ]
    }
}

// === impl Setup ===

impl Setup<'_> {
    fn nginx(&mut self) -> Result<Peer> {
        let http = self.address()?;
        let Self { folder, upstream, cores, .. } = *self;
        let file = folder.join("proxy.conf");
        let configuration = format!(
            "daemon off; worker_processes {cores}; {}keepalive_requests 1000000000; keepalive_timeout 1h;\n\
         client_max_body_size 0; proxy_request_buffering off; proxy_max_temp_file_size 0;\n\
         upstream resource {{ server {upstream}; keepalive 512; keepalive_requests 1000000000; }}\n\
         server {{ listen {http} backlog=4096; location / {{ proxy_pass http://resource; proxy_http_version 1.1;\n\
         proxy_set_header Connection \"\"; proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; }} }} }}\n",
            nginx_paths(folder, "proxy")
        );
        fs::write(&file, configuration)?;
        let mut command = Command::new(&self.programs.nginx);
        Peer::start(
            "nginx",
            command.args(["-e", "stderr", "-c"]).arg(file),
            folder,
            Entries { http, own: http, h2c: None, tcp: None },
        )
    }

    fn haproxy(&mut self) -> Result<Peer> {
        let (http, tcp) = (self.address()?, self.address()?);
        let Self { folder, upstream, cores, .. } = *self;
        let file = folder.join("haproxy.cfg");
        let configuration = format!(
            "global\n  nbthread {cores}\n  maxconn 4000\n\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n\
         frontend clients\n  bind {http}\n  option forwardfor\n  default_backend resource\n\
         backend resource\n  http-reuse always\n  server one {upstream}\n\
         frontend bytes\n  mode tcp\n  bind {tcp}\n  default_backend bytes\n\
         backend bytes\n  mode tcp\n  server one {upstream}\n"
        );
        fs::write(&file, configuration)?;
        let mut command = Command::new(&self.programs.haproxy);
        Peer::start(
            "HAProxy",
            command.arg("-f").arg(file),
            folder,
            Entries { http, own: http, h2c: Some(http), tcp: Some(tcp) },
        )
    }

    fn envoy(&mut self, program: &Path) -> Result<Peer> {
        let (http, tcp) = (self.address()?, self.address()?);
        let Self { folder, upstream, cores, .. } = *self;
        let file = folder.join("envoy.yaml");
        let filter = "type.googleapis.com/envoy.extensions.filters";
        let at = |address: SocketAddr| {
            format!("{{socket_address: {{address: {}, port_value: {}}}}}", address.ip(), address.port())
        };
        let configuration = format!(
            r#"static_resources:
  listeners:
  - address: {http}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": {filter}.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          use_remote_address: true
          route_config:
            virtual_hosts:
            - {{name: resource, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: resource, timeout: 0s}}}}]}}
          http_filters:
          - name: router
            typed_config: {{"@type": {filter}.http.router.v3.Router}}
  - address: {tcp}
    filter_chains:
    - filters:
      - name: tcp
        typed_config: {{"@type": {filter}.network.tcp_proxy.v3.TcpProxy, stat_prefix: tcp, cluster: resource}}
  clusters:
  - name: resource
    type: STATIC
    circuit_breakers: {{thresholds: [{{max_connections: 4096, max_pending_requests: 4096, max_requests: 4096}}]}}
    load_assignment:
      cluster_name: resource
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {upstream}}}}}]}}]
"#,
            http = at(http),
            tcp = at(tcp),
            upstream = at(upstream),
        );
        fs::write(&file, configuration)?;
        let mut command = Command::new(program);
        command.arg("-c").arg(file).args(["--disable-hot-restart", "--log-level", "warn", "--concurrency"]);
        Peer::start(
            "Envoy",
            command.arg(cores.to_string()),
            folder,
            Entries { http, own: http, h2c: Some(http), tcp: Some(tcp) },
        )
    }

    fn go(&mut self, program: &Path) -> Result<Peer> {
        let http = self.address()?;
        let mut command = Command::new(go_proxy(program)?);
        command.args([http.to_string(), self.upstream.to_string()]);
        Peer::start(
            "Go ReverseProxy",
            &mut command,
            self.folder,
            Entries { http, own: http, h2c: None, tcp: None },
        )
    }

    /// One that no other peer has.
    fn address(&mut self) -> Result<SocketAddr> {
        let port = free_port(self.next_port)?;
        self.next_port = port + 1;
        Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }
}

// === impl Peer ===

impl Peer {
    fn start(name: &'static str, command: &mut Command, folder: &Path, entries: Entries) -> Result<Self> {
        let log = fs::File::create(folder.join(format!("{name}.log")))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("starting {name}"))?;
        Ok(Self { name, entries, child })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // nginx's master ends its workers on SIGTERM; a SIGKILL would leave them.
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.child),
            rustix::process::Signal::TERM,
        );
        let _ = self.child.wait();
    }
}
