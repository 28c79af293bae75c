//! One incarnation of a daemon: a real process, its sockets handed over, its log in a file.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read as _},
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
};

use command_fds::{CommandFdExt as _, FdMapping};
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    admin::{self, Metrics},
    load::Response,
    processes, until,
};

/// A daemon to be started.
#[derive(Debug)]
pub struct Launch {
    /// `autoscaler` or `dlx`, for messages and the log's name.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments, without the admin address.
    pub arguments: Vec<OsString>,
    /// Environment variables.
    pub environment: Vec<(String, String)>,
    /// Sockets it takes over, besides the admin socket.
    pub sockets: Vec<OwnedFd>,
    /// The site's folder.
    pub folder: PathBuf,
}

/// A running daemon. Killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    admin: SocketAddr,
    log: PathBuf,
}

// === impl Launch ===

impl Launch {
    /// Starts the process. It is not ready yet.
    ///
    /// # Panics
    ///
    /// It cannot be started.
    pub fn start(self) -> Daemon {
        let Self { name, program, arguments, environment, sockets, folder } = self;
        // Of its own in each incarnation: while one drains and the next runs, each is asked for itself.
        let admin = TcpListener::bind("127.0.0.1:0").expect("binding an admin socket");
        let address = admin.local_addr().expect("the admin socket's address");
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).unwrap_or_else(|error| panic!("creating {}: {error}", log.display()));
        let mut parents: Vec<OwnedFd> = vec![admin.into()];
        parents.extend(sockets);
        let count = parents.len();
        let mappings = parents
            .into_iter()
            .zip(3..)
            .map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd })
            .collect();
        let mut command = Command::new("setpriv");
        command
            // The process dies with this test, also when the test is killed.
            .args(["--pdeathsig", "KILL", "sh", "-c", "export LISTEN_PID=$$; exec \"$@\"", "sh"])
            .arg(&program)
            .args(&arguments)
            .arg(format!("--admin-address={address}"))
            .env("LISTEN_FDS", count.to_string())
            .env(processes::SITE, &folder)
            .env(processes::OWNER, std::process::id().to_string())
            .envs(environment)
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("the log file twice"))
            .stderr(file);
        command.fd_mappings(mappings).expect("descriptors that do not collide");
        let child = command.spawn().unwrap_or_else(|error| panic!("starting {}: {error}", program.display()));
        Daemon { name, child, admin: address, log }
    }
}

// === impl Daemon ===

impl Daemon {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its name in this site, e.g. `dlx-2`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its admin port.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        let mut text = Vec::new();
        let _ = File::open(&self.log).and_then(|mut file| file.read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Waits until `/readyz` answers 200.
    ///
    /// # Panics
    ///
    /// It ends before, or is not ready in time.
    pub async fn ready(mut self) -> Self {
        let (name, admin) = (self.name.clone(), self.admin);
        let log = self.log.clone();
        until(&format!("{name} to be ready"), || {
            let ended = self.child.try_wait().ok().flatten();
            let log = log.clone();
            async move {
                if let Some(status) = ended {
                    let log = std::fs::read_to_string(&log).unwrap_or_default();
                    panic!("it ended with {status} before it was ready; its log:\n{log}");
                }
                match admin::get(admin, "/readyz").await {
                    Ok(Response { status: 200, .. }) => Ok(()),
                    Ok(response) => Err(response.text()),
                    Err(error) => Err(error),
                }
            }
        })
        .await;
        self
    }

    /// Asks its admin port.
    ///
    /// # Panics
    ///
    /// No answer.
    pub async fn get(&self, path: &str) -> Response {
        admin::get(self.admin, path)
            .await
            .unwrap_or_else(|error| panic!("{}: GET {path}: {error}", self.name))
    }

    /// Its metrics now.
    pub async fn metrics(&self) -> Metrics {
        Metrics::parse(&self.get("/metrics").await.text())
    }

    /// What `/api/v1/resources` says of one resource; null if it does not know it.
    pub async fn resource(&self, namespace: &str, name: &str) -> Value {
        let all = self.get("/api/v1/resources").await.json();
        let list = all.as_array().or_else(|| all["resources"].as_array()).cloned().unwrap_or_default();
        list.into_iter().find(|one| one["namespace"] == namespace && one["name"] == name).unwrap_or_default()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        processes::signal(self.pid() as i32, Signal::TERM);
    }

    /// Sends SIGSTOP: alive, and silent.
    pub fn freeze(&self) {
        processes::signal(self.pid() as i32, Signal::STOP);
    }

    /// Sends SIGCONT.
    pub fn thaw(&self) {
        processes::signal(self.pid() as i32, Signal::CONT);
    }

    /// Sends SIGKILL and reaps it.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    ///
    /// It does not.
    pub async fn ended(&mut self) -> ExitStatus {
        let name = self.name.clone();
        until(&format!("{name} to end"), || {
            let state = self.child.try_wait();
            async move { state.map_err(|error| error.to_string())?.ok_or_else(|| "it runs".to_owned()) }
        })
        .await
    }

    /// SIGTERM, then waits until it has ended well.
    ///
    /// # Panics
    ///
    /// It does not end, or not with status 0.
    pub async fn stop(mut self) {
        self.terminate();
        let status = self.ended().await;
        assert!(status.success(), "{} ended with {status}; its log:\n{}", self.name, self.log());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(150)..];
            eprintln!("---- the end of {}'s log\n{}\n----", self.name, tail.join("\n"));
        }
    }
}
