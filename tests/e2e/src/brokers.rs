//! Real brokers, and queues that a test fills and empties.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use crate::{Site, processes, until};

/// A broker, a process of its own. Killed when dropped.
#[derive(Debug)]
pub struct Broker {
    /// Where it listens on 127.0.0.1, also after it was started again.
    pub port: u16,
    command: Vec<String>,
    folder: PathBuf,
    child: Option<Child>,
}

/// A connection to a broker.
#[derive(Debug)]
pub struct Client(BufReader<TcpStream>);

/// A queue that a test fills and empties.
#[derive(Clone, Debug)]
pub enum Queue {
    /// A folder with a file for each job.
    Folder(PathBuf),
    /// A tube of the beanstalkd at that port.
    Tube(u16, String),
    /// A list of the Redis at that port.
    List(u16, String),
    /// A stream of the Redis at that port, with the group `workers`.
    Stream(u16, String),
}

// === impl Broker ===

impl Broker {
    /// Starts a beanstalkd.
    ///
    /// # Panics
    ///
    /// It does not start.
    pub async fn beanstalkd(site: &Site) -> Self {
        Self::beanstalkd_in(site.folder(), site.port()).await
    }

    /// Starts a beanstalkd that belongs to this folder, at this port.
    ///
    /// # Panics
    ///
    /// It does not start.
    pub async fn beanstalkd_in(folder: &Path, port: u16) -> Self {
        Self::start(folder, port, &["beanstalkd", "-l", "127.0.0.1", "-p", &port.to_string()]).await
    }

    /// Starts a Redis with these further arguments.
    ///
    /// # Panics
    ///
    /// It does not start.
    pub async fn redis(site: &Site, more: &[&str]) -> Self {
        let port = site.port();
        let text = port.to_string();
        let mut command = vec!["redis-server", "--port", &text, "--bind", "127.0.0.1", "--save", ""];
        command.extend(["--appendonly", "no", "--daemonize", "no"]);
        command.extend(more);
        Self::start(site.folder(), port, &command).await
    }

    async fn start(folder: &Path, port: u16, command: &[&str]) -> Self {
        let command = command.iter().map(|&word| word.to_owned()).collect();
        let mut broker = Self { port, command, folder: folder.to_owned(), child: None };
        broker.run().await;
        broker
    }

    /// Starts it, again after [`stop`](Self::stop), and waits until it accepts connections. What it held is gone.
    ///
    /// # Panics
    ///
    /// It does not start.
    pub async fn run(&mut self) {
        let mut command = Command::new(&self.command[0]);
        command
            .args(&self.command[1..])
            .env(processes::SITE, &self.folder)
            .env(processes::OWNER, std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let started = command.spawn();
        self.child = Some(started.unwrap_or_else(|error| panic!("starting {:?}: {error}", self.command)));
        let port = self.port;
        until(&format!("{:?} to listen", self.command), || async move {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
    }

    /// Kills it, and all that it holds is lost.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A new connection to it.
    ///
    /// # Panics
    ///
    /// It refuses.
    pub async fn connect(&self) -> Client {
        Client::connect(self.port).await
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop();
    }
}

// === impl Client ===

impl Client {
    async fn connect(port: u16) -> Self {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect("connecting to a broker");
        Self(BufReader::new(stream))
    }

    /// Sends a line, and returns the first line of the answer.
    ///
    /// # Panics
    ///
    /// No answer.
    pub async fn send(&mut self, text: &str) -> String {
        self.0.write_all(format!("{text}\r\n").as_bytes()).await.expect("writing to a broker");
        self.line().await
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).await.expect("reading from a broker");
        line.trim_end().to_owned()
    }

    /// Sends a line whose answer announces a text by its length, and returns the text.
    ///
    /// # Panics
    ///
    /// Another answer.
    pub async fn text(&mut self, text: &str) -> String {
        let announced = self.send(text).await;
        let length = announced.trim_start_matches(['O', 'K', ' ', '$']).parse::<usize>();
        let mut body = vec![0; length.unwrap_or_else(|_| panic!("{text}: {announced}")) + 2];
        self.0.read_exact(&mut body).await.expect("reading from a broker");
        String::from_utf8_lossy(&body).into_owned()
    }
}

// === impl Queue ===

impl Queue {
    /// An empty folder of the site.
    ///
    /// # Panics
    ///
    /// It cannot be made.
    pub fn folder(site: &Site, name: &str) -> Self {
        let path = site.folder().join("queues").join(name);
        fs::create_dir_all(&path).expect("making the folder of a queue");
        Self::Folder(path)
    }

    /// An empty stream with its group.
    ///
    /// # Panics
    ///
    /// Redis refuses.
    pub async fn stream(redis: &Broker, name: &str) -> Self {
        let made = redis.connect().await.send(&format!("XGROUP CREATE {name} workers 0 MKSTREAM")).await;
        assert_eq!(made, "+OK");
        Self::Stream(redis.port, name.to_owned())
    }

    /// Its URI.
    pub fn uri(&self) -> String {
        match self {
            Self::Folder(path) => format!("file://{}", path.display()),
            Self::Tube(port, _) | Self::List(port, _) | Self::Stream(port, _) => self.uri_at(*port),
        }
    }

    /// Its URI where its broker is reached at another port.
    pub fn uri_at(&self, port: u16) -> String {
        match self {
            Self::Folder(_) => self.uri(),
            Self::Tube(_, name) => format!("beanstalkd://127.0.0.1:{port}/{name}"),
            Self::List(_, name) => format!("redis://127.0.0.1:{port}/0/{name}"),
            Self::Stream(_, name) => format!("redis://127.0.0.1:{port}/0/{name}?group=workers"),
        }
    }

    /// Adds so many messages.
    ///
    /// # Panics
    ///
    /// The broker refuses.
    pub async fn put(&self, count: usize) {
        match self {
            Self::Folder(path) => {
                static NUMBER: AtomicU64 = AtomicU64::new(0);
                for _ in 0..count {
                    let name = format!("job-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
                    put_job(path, &name, "");
                }
            }
            Self::Tube(port, name) => {
                let mut client = Client::connect(*port).await;
                assert_eq!(client.send(&format!("use {name}")).await, format!("USING {name}"));
                for _ in 0..count {
                    let put = client.send("put 0 0 600 1\r\nx").await;
                    assert!(put.starts_with("INSERTED"), "{put}");
                }
            }
            Self::List(port, name) => {
                let mut client = Client::connect(*port).await;
                let put = client.send(&format!("LPUSH {name}{}", " x".repeat(count))).await;
                assert!(put.starts_with(':'), "{put}");
            }
            Self::Stream(port, name) => {
                let mut client = Client::connect(*port).await;
                for _ in 0..count {
                    client.text(&format!("XADD {name} * job x")).await;
                }
            }
        }
    }

    /// Takes all messages, and says that they are done.
    ///
    /// # Panics
    ///
    /// The broker refuses.
    pub async fn clear(&self) {
        match self {
            Self::Folder(path) => {
                for file in fs::read_dir(path).expect("reading a queue's folder").flatten() {
                    fs::remove_file(file.path()).expect("removing a job");
                }
            }
            Self::Tube(port, name) => take_jobs(*port, name, usize::MAX).await,
            Self::List(port, name) => {
                let mut client = Client::connect(*port).await;
                assert!(client.send(&format!("DEL {name}")).await.starts_with(':'));
            }
            Self::Stream(port, name) => {
                let mut client = Client::connect(*port).await;
                // As if the group had read all, and acknowledged it.
                assert_eq!(client.send(&format!("XGROUP SETID {name} workers $")).await, "+OK");
            }
        }
    }
}

/// Takes so many jobs out of a tube, or all that wait in it, and says that they are done.
///
/// # Panics
///
/// The broker refuses.
pub async fn take_jobs(port: u16, tube: &str, count: usize) {
    let mut client = Client::connect(port).await;
    client.send(&format!("watch {tube}")).await;
    for _ in 0..count {
        let reserved = client.send("reserve-with-timeout 0").await;
        let Some(id) = reserved.strip_prefix("RESERVED ").and_then(|rest| rest.split(' ').next()) else {
            assert_eq!(reserved, "TIMED_OUT");
            return;
        };
        client.line().await;
        assert_eq!(client.send(&format!("delete {id}")).await, "DELETED");
    }
}

/// Puts a job into a folder, whole in one step.
///
/// # Panics
///
/// It cannot be written.
pub fn put_job(folder: &Path, name: &str, text: &str) {
    let hidden = folder.join(format!(".{name}"));
    fs::write(&hidden, text).expect("writing a job");
    fs::rename(hidden, folder.join(name)).expect("renaming a job");
}
