//! What the tests share: the metric source, real brokers, and brokers that misbehave.
#![allow(dead_code, missing_docs, reason = "each test binary uses a part")]

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use plugin_host::{Interface, LOAD_TIMEOUT, RunningMetricSource, load_dir};
use scaler_types::{MetricSourceContext, QueueError, QueueReading};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    time::timeout,
};

/// Longer than anything here takes: what is waited for does not come.
pub const NEVER: Duration = Duration::from_secs(60);

pub type Reading = Result<QueueReading, QueueError>;

/// The metric source's library as the autoscaler loads it, started with `metricSources.queues: SECTION`.
pub struct Source(Arc<dyn RunningMetricSource>);

/// A broker that is a process of its own, killed when this is dropped.
pub struct Server {
    command: Vec<String>,
    pub port: u16,
    child: Option<Child>,
}

/// A broker that answers as a test wants.
pub struct FakeBroker {
    pub port: u16,
    accepted: Arc<AtomicUsize>,
}

/// What a fake broker does with each connection.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// Reads, and never answers.
    Silent,
    /// Answers the first line with `first`, every further one with `then`.
    Answers { first: &'static str, then: String },
    /// As `Answers`, and closes the connection after so many lines.
    Closes { first: &'static str, then: String, after: usize },
}

impl Source {
    pub async fn start(section: &str) -> Self {
        Self::try_start(section).await.unwrap()
    }

    pub async fn try_start(section: &str) -> Result<Self, String> {
        Self::start_with(&format!("namespace: demo\nmetricSources:\n  queues: {section}\n")).await
    }

    /// Starts it with a whole namespace file.
    pub async fn start_with(file: &str) -> Result<Self, String> {
        // target/debug/deps/this-test
        let test = std::env::current_exe().expect("a test has a path");
        let library = test.with_file_name("libqueues.so");
        let folder = tempfile::tempdir().unwrap();
        fs::copy(&library, folder.path().join("queues.so"))
            .unwrap_or_else(|error| panic!("{}: {error}", library.display()));
        let scan = load_dir(folder.path(), Interface::MetricSource, LOAD_TIMEOUT, |_| {}).unwrap();
        let rejected: Vec<_> = scan.rejected.iter().map(ToString::to_string).collect();
        assert!(rejected.is_empty(), "{rejected:?}");
        let context = MetricSourceContext {
            namespace: "demo".to_owned(),
            kind: String::new(),
            namespace_file: "demo.yaml".to_owned(),
            namespace_file_text: file.into(),
        };
        scan.plugins[0].start_metric_source(context).await.map(Self).map_err(|error| error.to_string())
    }

    /// Allows one port of this host.
    pub async fn allowing(port: u16) -> Self {
        Self::start(&format!("{{allowedHosts: ['127.0.0.1:{port}']}}")).await
    }

    pub async fn read(&self, queues: &[&str]) -> Vec<Reading> {
        let queues: Vec<_> = queues.iter().map(|queue| (*queue).to_owned()).collect();
        let read = timeout(NEVER, self.0.read(&queues)).await.expect("reading takes a time");
        let readings = read.unwrap();
        assert_eq!(readings.len(), queues.len());
        readings
    }

    pub async fn read_one(&self, queue: &str) -> Reading {
        self.read(&[queue]).await.remove(0)
    }

    /// Reads again until it can be read.
    pub async fn until_read(&self, queue: &str) -> QueueReading {
        let until = async {
            loop {
                if let Ok(reading) = self.read_one(queue).await {
                    return reading;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(NEVER, until).await.expect("it can never be read")
    }

    pub async fn changes(&self, queues: &[&str]) -> Vec<String> {
        let queues: Vec<_> = queues.iter().map(|queue| (*queue).to_owned()).collect();
        timeout(NEVER, self.0.changes(&queues)).await.expect("nothing changes").unwrap()
    }
}

/// A port that no process listens on.
pub fn free_port() -> u16 {
    // The kernel may offer a port again that nothing listens on yet.
    static OFFERED: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if OFFERED.lock().unwrap().insert(port) {
            return port;
        }
    }
}

// === impl Server ===

impl Server {
    pub async fn beanstalkd() -> Self {
        let port = free_port();
        Self::start(&["beanstalkd", "-l", "127.0.0.1", "-p", &port.to_string()], port).await
    }

    pub async fn redis(more: &[&str]) -> Self {
        let port = free_port();
        let port_text = port.to_string();
        let mut command = vec!["redis-server", "--port", &port_text, "--bind", "127.0.0.1", "--save", ""];
        command.extend(["--appendonly", "no", "--daemonize", "no"]);
        command.extend(more);
        Self::start(&command, port).await
    }

    pub async fn start(command: &[&str], port: u16) -> Self {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        let mut server = Self { command, port, child: None };
        server.run().await;
        server
    }

    /// Starts it, again after `kill`, and waits until it accepts connections.
    pub async fn run(&mut self) {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let started = command.spawn();
        self.child = Some(started.unwrap_or_else(|error| panic!("{:?}: {error}", self.command)));
        let accepts = async {
            while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        timeout(NEVER, accepts).await.unwrap_or_else(|_| panic!("{:?} does not listen", self.command));
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// `beanstalkd://127.0.0.1:PORT/REST`
    pub fn uri(&self, scheme: &str, rest: &str) -> String {
        format!("{scheme}://127.0.0.1:{}/{rest}", self.port)
    }

    pub async fn connect(&self) -> BufReader<TcpStream> {
        BufReader::new(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends a line, and what follows it, and returns the answer's first line.
pub async fn send(connection: &mut BufReader<TcpStream>, text: &str) -> String {
    connection.write_all(format!("{text}\r\n").as_bytes()).await.unwrap();
    let mut line = String::new();
    timeout(NEVER, connection.read_line(&mut line)).await.expect("an answer").unwrap();
    line.trim_end().to_owned()
}

/// Puts a job into a tube, after so many seconds.
pub async fn put(connection: &mut BufReader<TcpStream>, tube: &str, delay: u32) {
    assert_eq!(send(connection, &format!("use {tube}")).await, format!("USING {tube}"));
    let put = send(connection, &format!("put 0 {delay} 60 1\r\nx")).await;
    assert!(put.starts_with("INSERTED"), "{put}");
}

/// A body that was announced: beanstalkd's `OK 123`.
pub async fn body(connection: &mut BufReader<TcpStream>, announced: &str) -> String {
    let length: usize = announced.split(' ').next_back().unwrap().parse().unwrap();
    let mut body = vec![0; length + 2];
    connection.read_exact(&mut body).await.unwrap();
    String::from_utf8(body).unwrap()
}

/// A number of beanstalkd's own statistics.
pub async fn statistic(connection: &mut BufReader<TcpStream>, name: &str) -> u64 {
    let announced = send(connection, "stats").await;
    let text = body(connection, &announced).await;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

// === impl FakeBroker ===

impl FakeBroker {
    pub async fn start(behaviour: Behaviour) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(answer(BufReader::new(stream), behaviour.clone()));
            }
        });
        Self { port, accepted }
    }

    /// How many connections it has accepted.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

async fn answer(mut stream: BufReader<TcpStream>, behaviour: Behaviour) -> std::io::Result<()> {
    let mut line = Vec::new();
    let (mut count, mut is_redis) = (0, false);
    loop {
        line.clear();
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        // A command of Redis has several lines, of which the first begins with `*`.
        is_redis |= line.starts_with(b"*");
        if is_redis && !line.starts_with(b"*") {
            continue;
        }
        count += 1;
        let (first, then, after) = match &behaviour {
            Behaviour::Silent => continue,
            Behaviour::Answers { first, then } => (first, then, usize::MAX),
            Behaviour::Closes { first, then, after } => (first, then, *after),
        };
        if count > after {
            return Ok(());
        }
        stream.write_all(if count == 1 { first.as_bytes() } else { then.as_bytes() }).await?;
    }
}

/// Writes a file that only its owner reads.
pub fn secret(folder: &Path, name: &str, text: &str) {
    let file = folder.join(format!(".{name}.new"));
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    // As a mounted Secret is replaced: whole.
    fs::rename(file, folder.join(name)).unwrap();
}

pub fn unavailable(reading: Reading) -> String {
    match reading {
        Err(QueueError::Unavailable(text)) => text,
        other => panic!("expected Unavailable, not {other:?}"),
    }
}

pub fn refused(reading: Reading) -> String {
    match reading {
        Err(QueueError::Denied(text)) => text,
        other => panic!("expected Denied, not {other:?}"),
    }
}
