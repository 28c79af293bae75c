//! What pods run in this crate's own tests.
//!
//! `sample [--bind ADDRESS] [--port PORT] [--exit STATUS] [--start-delay MS] [--drain-delay MS] [--show TEXT]`
//!
//! HTTP: `/ready` answers 200, or 503 between `/ready/no` and `/ready/yes`; `/env/NAME` the value of a variable, `/file/PATH` a file, `/args` its
//! arguments; anything else its process id. SIGTERM ends it after the drain delay with status 0.

use std::{
    env, fs,
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
};

static READY: AtomicBool = AtomicBool::new(true);

struct Flags {
    bind: IpAddr,
    port: u16,
    exit: Option<i32>,
    start_delay: Duration,
    drain_delay: Duration,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let flags = Flags::read()?;
    let mut terminated = signal(SignalKind::terminate())?;
    if let Some(status) = flags.exit {
        eprintln!("sample: exits with status {status}, as asked");
        std::process::exit(status);
    }
    tokio::select! {
        () = pause(flags.start_delay) => {}
        _ = terminated.recv() => return Ok(()),
    }
    let listener = TcpListener::bind((flags.bind, flags.port)).await.context("listening")?;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // A client that breaks off is no news.
                tokio::spawn(async move { if let Ok((stream, _)) = accepted { let _ = serve(stream).await; } });
            }
            _ = terminated.recv() => break,
        }
    }
    pause(flags.drain_delay).await;
    Ok(())
}

async fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    let mut head = [0; 4096];
    let length = stream.read(&mut head).await?;
    let head = String::from_utf8_lossy(&head[..length]);
    let path = head.split(' ').nth(1).unwrap_or("/");
    let mut status = "200 OK";
    let body = match path {
        "/ready" if !READY.load(Ordering::Relaxed) => {
            status = "503 Service Unavailable";
            String::new()
        }
        "/ready/no" | "/ready/yes" => {
            READY.store(path.ends_with("yes"), Ordering::Relaxed);
            String::new()
        }
        "/args" => env::args().collect::<Vec<_>>().join(" "),
        path => match (path.strip_prefix("/env/"), path.strip_prefix("/file")) {
            (Some(name), _) => env::var(name).unwrap_or_default(),
            (None, Some(file)) => fs::read_to_string(file).unwrap_or_default(),
            (None, None) => std::process::id().to_string(),
        },
    };
    let answer =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).await
}

#[expect(clippy::disallowed_methods, reason = "a start and an end that take their time are what it is for")]
async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}

// === impl Flags ===

impl Flags {
    fn read() -> Result<Self> {
        let mut flags = Self {
            bind: Ipv4Addr::LOCALHOST.into(),
            port: 8080,
            exit: None,
            start_delay: Duration::ZERO,
            drain_delay: Duration::ZERO,
        };
        let mut words = env::args().skip(1);
        while let Some(name) = words.next() {
            if name == "--help" {
                std::process::exit(0);
            }
            let value = words.next().with_context(|| format!("{name} wants a value"))?;
            match name.as_str() {
                "--bind" => flags.bind = value.parse()?,
                "--port" => flags.port = value.parse()?,
                "--exit" => flags.exit = Some(value.parse()?),
                "--start-delay" => flags.start_delay = Duration::from_millis(value.parse()?),
                "--drain-delay" => flags.drain_delay = Duration::from_millis(value.parse()?),
                // For tests of what becomes of arguments.
                "--show" => {}
                _ => bail!("unknown flag {name}"),
            }
        }
        Ok(flags)
    }
}
