//! The other proxies, each set up as its manual says for a warm reverse proxy, and the upstream behind all of them.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{install, scene::free_port, steps::pause};

/// What does not come from this workspace.
pub struct Programs {
    /// The upstream, and one of the peers.
    pub nginx: PathBuf,
    /// A peer.
    pub haproxy: PathBuf,
    /// The client.
    pub wrk: PathBuf,
    /// Builds the Go proxy.
    pub go: PathBuf,
}

/// A running proxy in front of the upstream. Dropped: it is stopped.
pub struct Peer {
    /// As in the table.
    pub name: &'static str,
    /// Where it listens.
    pub address: SocketAddr,
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

/// What nginx writes to the file system goes under `folder`, so that it runs as anybody.
fn nginx_paths(folder: &Path, name: &str) -> String {
    let folder = folder.display();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {folder}/{what};"));
    format!(
        "pid {folder}/{name}.pid; error_log stderr warn; events {{ worker_connections 4096; }}\nhttp {{ access_log off; {}\n",
        temporary.join(" ")
    )
}

/// The upstream's command line: one nginx worker that answers 24 bytes and never closes a connection.
///
/// # Errors
///
/// Its configuration cannot be written.
pub fn upstream(programs: &Programs, folder: &Path, port: u16) -> Result<Vec<String>> {
    let file = folder.join("upstream.conf");
    let configuration = format!(
        "daemon off; worker_processes 1; {}keepalive_requests 1000000000; keepalive_timeout 1h;\n\
         server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ default_type text/plain; return 200 \"hello from the resource\\n\"; }} }} }}\n",
        nginx_paths(folder, "upstream")
    );
    fs::write(&file, configuration).context("writing the upstream's configuration")?;
    Ok(vec![
        programs.nginx.display().to_string(),
        "-e".into(),
        "stderr".into(),
        "-c".into(),
        file.display().to_string(),
    ])
}

/// Builds and starts the peers.
///
/// # Errors
///
/// One cannot be built, or does not listen.
pub async fn start(programs: &Programs, folder: &Path, upstream: SocketAddr) -> Result<Vec<Peer>> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let nginx = |address: SocketAddr| -> Result<Command> {
        let file = folder.join("proxy.conf");
        let configuration = format!(
            "daemon off; worker_processes {cores}; {}keepalive_requests 1000000000; keepalive_timeout 1h;\n\
             upstream resource {{ server {upstream}; keepalive 128; keepalive_requests 1000000000; }}\n\
             server {{ listen {address} backlog=4096; location / {{ proxy_pass http://resource; proxy_http_version 1.1;\n\
             proxy_set_header Connection \"\"; proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; }} }} }}\n",
            nginx_paths(folder, "proxy")
        );
        fs::write(&file, configuration)?;
        let mut command = Command::new(&programs.nginx);
        command.args(["-e", "stderr", "-c"]).arg(file);
        Ok(command)
    };
    let haproxy = |address: SocketAddr| -> Result<Command> {
        let file = folder.join("haproxy.cfg");
        let configuration = format!(
            "global\n  nbthread {cores}\n  maxconn 2000\ndefaults\n  mode http\n  option forwardfor\n  http-reuse always\n  \
             timeout connect 5s\n  timeout client 1h\n  timeout server 1h\nfrontend clients\n  bind {address}\n  default_backend resource\n\
             backend resource\n  server one {upstream}\n"
        );
        fs::write(&file, configuration)?;
        let mut command = Command::new(&programs.haproxy);
        command.arg("-f").arg(file);
        Ok(command)
    };
    let go = |address: SocketAddr| -> Result<Command> {
        let mut command = Command::new(go_proxy(programs)?);
        command.args([address.to_string(), upstream.to_string()]);
        Ok(command)
    };
    type Make<'a> = &'a dyn Fn(SocketAddr) -> Result<Command>;
    let makers: [(&'static str, Make<'_>); 3] =
        [("nginx", &nginx), ("HAProxy", &haproxy), ("Go ReverseProxy", &go)];
    let mut peers = Vec::new();
    for (name, make) in makers {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port(18_000)?));
        let mut command = make(address).with_context(|| format!("setting up {name}"))?;
        let log = fs::File::create(folder.join(format!("{name}.log")))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("starting {name}"))?;
        peers.push(Peer { name, address, child });
        listening(name, address).await?;
    }
    Ok(peers)
}

/// The Go proxy's program, built once per text of its source.
fn go_proxy(programs: &Programs) -> Result<PathBuf> {
    let folder = crate::workspace::target().join("tools/go-proxy");
    let (source, program) = (folder.join("main.go"), folder.join("go-proxy"));
    if program.is_file() && fs::read_to_string(&source).is_ok_and(|text| text == GO_PROXY) {
        return Ok(program);
    }
    fs::create_dir_all(&folder)?;
    fs::write(&source, GO_PROXY)?;
    let mut build = Command::new(&programs.go);
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
    /// Finds them, or installs them.
    ///
    /// # Errors
    ///
    /// One cannot be had.
    pub fn find() -> Result<Self> {
        Ok(Self {
            nginx: install::apt("nginx", "nginx-light")?,
            haproxy: install::apt("haproxy", "haproxy")?,
            wrk: install::apt("wrk", "wrk")?,
            go: install::go()?,
        })
    }

    /// `(name, version)` of each, for the report.
    pub fn versions(&self) -> Vec<(&'static str, String)> {
        let first_line = |program: &Path, argument: &str| {
            let output = Command::new(program).arg(argument).output();
            let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
            String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim().to_owned()
        };
        vec![
            ("nginx", first_line(&self.nginx, "-v")),
            ("haproxy", first_line(&self.haproxy, "-v")),
            ("wrk", first_line(&self.wrk, "-v")),
            ("go", first_line(&self.go, "version")),
        ]
    }
}

// === impl Peer ===

impl Peer {
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
