//! Finding out, from the moment an endpoint is known, when it answers.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use scaler_types::Probe;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep_until, timeout, timeout_at},
};

use crate::resource::{Entry, Target};

/// The pause between two tries while requests wait, as long as a start is young: what a cold start is made longer by.
/// A refused connection costs about 50 us on this host.
const FIRST: Duration = Duration::from_millis(2);
/// A start that takes longer is asked less often, by this share of the time it has taken: 10 ms after 5 s.
const SHARE: u32 = 500;
/// The longest while requests wait.
const LONGEST_WANTED: Duration = Duration::from_millis(50);
/// Tries in a second, of all resources that requests wait for: 10,000 that start at once are asked every 2 s each.
const RATE: u32 = 5_000;
/// The longest while none do.
const LONGEST_IDLE: Duration = Duration::from_secs(10);
/// How long one try may take at first; it grows so that a slow answer is not missed for ever.
const FIRST_TRY: Duration = Duration::from_millis(500);
const LONGEST_TRY: Duration = Duration::from_secs(5);
/// An answer's first line, and a little more.
const HEAD: usize = 256;

/// Probes an endpoint until it answers, or is no longer wanted to.
pub fn start(entry: Arc<Entry>, target: Arc<Target>) {
    let handle = entry.shared().handle.clone();
    handle.spawn(async move {
        let (mut pause, mut limit) = (FIRST, FIRST_TRY);
        let started = Instant::now();
        let mut changed = entry.subscribe();
        while entry.read(|view| view.is_awaited(target.number)) {
            let error = {
                // Closed never; without a permit it would go ahead all the same.
                let _permit = entry.shared().probes.acquire().await.ok();
                match timeout(limit, answers(&target)).await {
                    Ok(Ok(())) => {
                        entry.update(|view| view.reachable(target.number));
                        return;
                    }
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => {
                        limit = (limit * 2).min(LONGEST_TRY);
                        "no answer in time".to_owned()
                    }
                }
            };
            entry.note_probe(target.number, error);
            if entry.queue.is_empty() {
                pause = pause.mul_f32(1.5).min(LONGEST_IDLE);
                // The first request that waits cuts the pause short.
                let until = Instant::now() + pause;
                changed.borrow_and_update();
                while entry.queue.is_empty()
                    && matches!(timeout_at(until, changed.changed()).await, Ok(Ok(())))
                {}
                if !entry.queue.is_empty() {
                    pause = FIRST;
                }
            } else {
                let wanted = Wanted::new(&entry);
                #[expect(
                    clippy::disallowed_methods,
                    reason = "nothing but a connection tells whether a port accepts"
                )]
                sleep_until(Instant::now() + wanted.pause(started.elapsed())).await;
            }
        }
    });
}

/// An endpoint that requests wait for, among others.
struct Wanted<'a> {
    others: &'a AtomicU32,
    place: u32,
}

// === impl Wanted ===

impl<'a> Wanted<'a> {
    fn new(entry: &'a Entry) -> Self {
        let others = &entry.shared().awaited;
        Self { others, place: others.fetch_add(1, Ordering::Relaxed) }
    }

    fn pause(&self, taken: Duration) -> Duration {
        let own = (taken / SHARE).clamp(FIRST, LONGEST_WANTED);
        own.max(Duration::from_secs(1) * self.place / RATE)
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.others.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn answers(target: &Target) -> io::Result<()> {
    let mut stream = match target.socket {
        Some(address) => TcpStream::connect(address).await?,
        None => TcpStream::connect(&target.endpoint.address).await?,
    };
    let Probe::Http { path, .. } = &target.endpoint.probe else { return Ok(()) };
    let address = &target.endpoint.address;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: scaler-probe\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0; HEAD];
    let mut len = 0;
    while len < head.len() && !head[..len].contains(&b'\n') {
        match stream.read(&mut head[len..]).await? {
            0 => break,
            n => len += n,
        }
    }
    // "HTTP/1.1 204 ..."
    let mut words = head[..len].split(|byte| *byte == b' ');
    match (words.next(), words.next()) {
        (Some(version), Some(status)) if version.starts_with(b"HTTP/1.") => match status {
            [b'2', _, _] => Ok(()),
            status => {
                let status = String::from_utf8_lossy(status);
                Err(io::Error::other(format!("GET {path} answers {}, not 2xx", status.trim())))
            }
        },
        _ => Err(io::Error::other(format!("GET {path} is not answered in HTTP/1"))),
    }
}
