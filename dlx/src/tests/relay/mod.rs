//! The relay beside the HTTP library alone, nginx and HAProxy: the same bytes through each of them, to one resource each
//! that records what comes. Nothing may be laxer with the relay than without it, or than nginx and HAProxy together:
//!
//! - If the relay forwards a request, the library alone forwards it, too, as the same one in the connection's order, with the
//!   same method, target, fields, body and framing; and nginx or HAProxy forwards one with the same method, target and body,
//!   unless [`compare`] lists what both refuse, with the reason.
//! - If the library forwards a request, so does the relay, unless [`compare`] lists why not; and every answer that the library
//!   forwards.
//! - What goes out at either end can be read in one way only: by [`Message::parse`](crate::testing::message::Message::parse),
//!   unless the library sends the same.
//! - The client gets the same answers, but for the case of letters and the order of fields, `Date`, answers of status 1xx and
//!   trailers, which the library adds or loses, and the fields of the connection. The answer to a request
//!   is never made of what followed another answer.
//! - A connection on which bytes followed an answer, or on which an answer had no end, carries no other request.
//!
//! A run prints its seed: 1 for a short run, a random one for a long run. `SCALER_FUZZ_SEED` chooses it, `SCALER_FUZZ_CASE`
//! shows one of its cases, `SCALER_FUZZ_SECONDS` says how long it takes, `SCALER_FUZZ_FINDINGS` after how many findings it ends. What is found has to be found again with more
//! time, and is made smaller.

mod answers;
mod case;
mod client;
mod compare;
mod peers;
mod recorder;
mod requests;
mod shrink;
mod words;

use std::{
    env,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use case::{Case, Rng};
use client::{Seen, exchange};
use compare::{Finding, LAXER, judge};
use peers::{Dlx, Peer, Processes};

use crate::fault::{self, SeededFault};

/// How long nothing happens before nothing more is expected; a finding has to be the same after the longer.
const QUIET: Duration = Duration::from_millis(80);
const LONG_QUIET: Duration = Duration::from_millis(1500);
/// How many cases run at once.
const LANES: usize = 10;
/// How long the tests run unless `SCALER_FUZZ_SECONDS` says otherwise.
const SECONDS: u64 = 5;

/// How long a seeded fault is searched for at most; on a machine with nothing else to do it takes a second.
const LONGEST_SEARCH: u64 = 60;

/// Proxies that see the same bytes.
struct Lane {
    relay: Dlx,
    library: Dlx,
    peers: Vec<Peer>,
}

/// A case that broke a rule, made as small as it goes.
struct Failure {
    seed: u64,
    case: Case,
    findings: Vec<Finding>,
}

/// What a run did.
#[derive(Debug, Default)]
struct Counts {
    cases: AtomicU64,
    forwarded: AtomicU64,
    refused: AtomicU64,
    not_again: AtomicU64,
}

// === impl Lane ===

impl Lane {
    async fn start(peers: Vec<Peer>) -> Self {
        Self { relay: Dlx::start(true).await, library: Dlx::start(false).await, peers }
    }

    /// Runs a case through all of them.
    async fn see(&self, case: &Case, quiet: Duration) -> (Seen, Seen, Vec<(&'static str, Seen)>) {
        let through = async |dlx: &Dlx| {
            dlx.renew().await;
            let mut seen = exchange(case, dlx.address(case.own_port), &dlx.recorder, quiet).await;
            seen.settled = dlx.settles(quiet * 2).await;
            if !seen.settled {
                // It ends with its connection to the resource, or is sent again: now, and not in the next case.
                dlx.recorder.begin(Vec::new());
                dlx.settles(LONG_QUIET).await;
            }
            seen
        };
        let through_peer = async |peer: Option<&Peer>| {
            let peer = peer?;
            Some((peer.name, exchange(case, peer.address, &peer.recorder, quiet).await))
        };
        let (relay, library, one, other) = tokio::join!(
            through(&self.relay),
            through(&self.library),
            through_peer(self.peers.first()),
            through_peer(self.peers.get(1))
        );
        (relay, library, [one, other].into_iter().flatten().collect())
    }

    async fn check(&self, case: &Case, quiet: Duration) -> Vec<Finding> {
        let (relay, library, peers) = self.see(case, quiet).await;
        judge(case, &relay, &library, &peers)
    }

    /// The finding again, with longer waits.
    async fn confirm(&self, case: &Case, rule: &str) -> Option<Vec<Finding>> {
        let mut findings = Vec::new();
        // Twice: what depends on which of two ends is faster is no finding.
        for _ in 0..2 {
            findings = self.check(case, LONG_QUIET).await;
            if !findings.iter().any(|finding| finding.rule == rule) {
                return None;
            }
        }
        Some(findings)
    }
}

/// Runs cases until the time is over, or so many findings were made.
async fn run(
    generate: impl Fn(u64) -> Case + Copy + Send + 'static,
    seconds: u64,
    shrinks: bool,
    with_peers: bool,
    seed: u64,
    most_findings: usize,
) -> (Vec<Failure>, Arc<Counts>) {
    let (_processes, mut peers) = match with_peers {
        true => Processes::start(LANES).await,
        false => (Processes::default(), (0..LANES).map(|_| Vec::new()).collect()),
    };
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let (next, counts, failures) =
        (Arc::new(AtomicU64::new(0)), Arc::new(Counts::default()), Arc::new(Mutex::new(Vec::new())));
    let mut lanes = tokio::task::JoinSet::new();
    for peers in peers.drain(..) {
        let (next, counts, failures) = (next.clone(), counts.clone(), failures.clone());
        lanes.spawn(async move {
            let lane = Lane::start(peers).await;
            let enough = || failures.lock().unwrap().len() >= most_findings;
            while Instant::now() < deadline && !enough() {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let seed = Rng::new(seed.wrapping_add(index)).next();
                let case = generate(seed);
                let (relay, library, others) = lane.see(&case, QUIET).await;
                counts.add(&relay);
                let findings = judge(&case, &relay, &library, &others);
                let Some(first) = findings.first() else { continue };
                if lane.confirm(&case, first.rule).await.is_none() {
                    counts.not_again.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                if enough() {
                    return;
                }
                let (case, findings) = match shrinks {
                    true => shrink::shrink(&lane, case, findings).await,
                    false => (case, findings),
                };
                let failure = Failure { seed, case, findings };
                println!("{failure}");
                failures.lock().unwrap().push(failure);
            }
        });
    }
    while let Some(ended) = lanes.join_next().await {
        ended.unwrap();
    }
    let failures = std::mem::take(&mut *failures.lock().unwrap());
    (failures, counts)
}

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    let digits = text.strip_prefix("0x");
    Some(digits.map_or_else(|| text.parse(), |digits| u64::from_str_radix(digits, 16)).expect(name))
}

/// Runs the tests' cases, or the one of `SCALER_FUZZ_CASE`.
async fn fuzz(name: &str, generate: fn(u64) -> Case, with_peers: bool) {
    if let Some(seed) = number("SCALER_FUZZ_CASE") {
        return show(generate(seed), with_peers).await;
    }
    let most = number("SCALER_FUZZ_FINDINGS").unwrap_or(1);
    let asked = number("SCALER_FUZZ_SECONDS");
    let seconds = asked.unwrap_or(SECONDS);
    let seed = number("SCALER_FUZZ_SEED").unwrap_or_else(|| match asked {
        // A short run repeats the same cases: a new finding must not stop a change that has nothing to do with it.
        None => 1,
        Some(_) => {
            use std::hash::{BuildHasher, RandomState};
            RandomState::new().hash_one(())
        }
    });
    let begin = Instant::now();
    let (failures, counts) = run(generate, seconds, true, with_peers, seed, most as usize).await;
    println!("{name}: seed {seed:#x}, {counts:?} in {:?}", begin.elapsed());
    let texts: Vec<_> = failures.iter().map(ToString::to_string).collect();
    assert!(
        texts.is_empty(),
        "{} of the cases of seed {seed:#x} break a rule; run one with SCALER_FUZZ_CASE=0x... cargo nextest run -p dlx relay::{name}\n{}",
        texts.len(),
        texts.join("\n")
    );
    assert!(counts.forwarded.load(Ordering::Relaxed) > 0 && counts.refused.load(Ordering::Relaxed) > 0);
}

/// Shows one case.
async fn show(case: Case, with_peers: bool) {
    let (_processes, mut peers) = match with_peers {
        true => Processes::start(1).await,
        false => (Processes::default(), vec![Vec::new()]),
    };
    let lane = Lane::start(peers.remove(0)).await;
    println!("{case}");
    let (relay, library, others) = lane.see(&case, LONG_QUIET).await;
    let findings = judge(&case, &relay, &library, &others);
    for (name, seen) in [("relay", relay), ("library", library)].into_iter().chain(others) {
        println!("{name}:\n{seen}");
    }
    assert!(findings.is_empty(), "{findings:#?}");
}

// === impl Counts ===

impl Counts {
    fn add(&self, relay: &Seen) {
        self.cases.fetch_add(1, Ordering::Relaxed);
        self.forwarded.fetch_add(relay.resource.requests.len() as u64, Ordering::Relaxed);
        let refused = relay.answers.iter().filter(|answer| answer.body.starts_with(b"{\"error\":"));
        self.refused.fetch_add(refused.count() as u64, Ordering::Relaxed);
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "=== case {:#x}, made smaller ===\n{}", self.seed, self.case)?;
        self.findings.iter().try_for_each(|finding| writeln!(f, "-> {}: {}", finding.rule, finding.what))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_forwarded_as_the_library_forwards_them() {
    fuzz("requests", requests::generate, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_forwarded_as_the_library_forwards_them() {
    fuzz("answers", answers::generate, false).await;
}

/// Runs cases until a seeded fault is found: of those of the grammar, the ones with these bytes. What rules were broken.
async fn finds(
    fault: SeededFault,
    generate: fn(u64) -> Case,
    mark: &'static [u8],
    with_peers: bool,
) -> Vec<&'static str> {
    fault::seed(fault);
    let has_mark = move |case: &Case| {
        case.requests.iter().any(|request| memchr::memmem::find(&request.bytes(), mark).is_some())
    };
    let marked = move |seed| {
        let mut rng = Rng::new(seed);
        loop {
            let case = generate(rng.next());
            if has_mark(&case) {
                return case;
            }
        }
    };
    let (failures, counts) = run(marked, LONGEST_SEARCH, false, with_peers, 1, 1).await;
    let [failure, ..] = &failures[..] else { panic!("{fault:?} was not found: {counts:?}") };
    println!("{fault:?} after {} cases: {failure}", counts.cases.load(Ordering::Relaxed));
    failure.findings.iter().map(|finding| finding.rule).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_laxer_length_is_found() {
    finds(SeededFault::LaxLength, requests::generate, b"Length: +", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_host_is_found() {
    finds(SeededFault::SecondHost, requests::generate, b"Host: a.test\r\nHost: a.test", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_line_feed_is_found() {
    finds(SeededFault::BareLf, requests::generate, b"HTTP/1.1\n", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overflow_of_a_chunks_size_is_found() {
    finds(SeededFault::ChunkOverflow, requests::generate, b"\r\n1000000000000000", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_read_short_is_found() {
    finds(SeededFault::ShortBody, requests::generate, b"Content-Length: 5\r\n", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_kept_with_leftovers_is_found() {
    finds(SeededFault::Leftovers, answers::generate, b"", false).await;
}

/// That is no difference between the relay and the library: the two others alone find it.
#[tokio::test(flavor = "multi_thread")]
async fn what_nginx_and_haproxy_refuse_is_found() {
    let mark = b"Transfer-Encoding: chunked, chunked\r\n";
    let rules = finds(SeededFault::ChunkedTwice, requests::generate, mark, true).await;
    assert_eq!(rules, [LAXER]);
}
