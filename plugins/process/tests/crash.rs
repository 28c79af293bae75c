//! Daemons killed at any moment: nothing half-started, nothing twice, nothing left behind.
#![allow(missing_docs)]

mod common;

use std::{
    env, fs,
    io::Write as _,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use common::*;
use scaler_types::{Nonce, Phase, ResourceScaler as _, ScaleError};
use tokio::time::timeout;

/// How often daemons are killed; `SCALER_TEST_CRASHES` for more.
fn crashes() -> u64 {
    env::var("SCALER_TEST_CRASHES").ok().and_then(|count| count.parse().ok()).unwrap_or(60)
}

/// This test binary again, as one of the programs below.
fn program(name: &str) -> Vec<String> {
    let path = env::current_exe().unwrap().display().to_string();
    [path.as_str(), "--exact", name, "--ignored", "--nocapture"].map(str::to_owned).to_vec()
}

/// One service, which is this binary as `the_service`.
fn resources(folder: &Path, port: u16) -> String {
    let command = serde_json::to_string(&program("the_service")).unwrap();
    format!(
        "      - name: hello\n        command: {command}\n        port: {port}\n        stopGracePeriod: 20s\n        \
         env: {{SCALER_TEST_SERVICE: {:?}, SCALER_TEST_PORT: \"{port}\"}}\n",
        folder.display().to_string()
    )
}

/// The service. Two at the same time would be seen: the second cannot make the file that the first one locks.
#[test]
#[ignore = "a program of the other tests"]
fn the_service() {
    let Ok(folder) = env::var("SCALER_TEST_SERVICE") else { return };
    let folder = PathBuf::from(folder);
    let lock = fs::File::create(folder.join("running")).unwrap();
    if lock.try_lock().is_err() {
        fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.join("twice"))
            .unwrap()
            .write_all(b"x")
            .unwrap();
    }
    let listener =
        TcpListener::bind(("127.0.0.1", env::var("SCALER_TEST_PORT").unwrap().parse().unwrap())).unwrap();
    for stream in listener.incoming() {
        drop(stream);
    }
}

/// Workers, which are this binary as `the_worker`.
fn fleet(folder: &Path) -> String {
    let command = serde_json::to_string(&program("the_worker")).unwrap();
    format!(
        "      - name: mailer\n        command: {command}\n        queue: file:///spool\n        messagesPerReplica: 1\n        \
         maxReplicas: 4\n        env: {{SCALER_TEST_WORKER: {:?}}}\n",
        folder.display().to_string()
    )
}

#[test]
#[ignore = "a program of the other tests"]
fn the_worker() {
    if env::var("SCALER_TEST_WORKER").is_ok() {
        loop {
            thread::park();
        }
    }
}

/// A daemon that changes the number of workers, for ever.
#[test]
#[ignore = "a program of the other tests"]
fn a_daemon_of_workers() {
    let Ok(folder) = env::var("SCALER_TEST_DAEMON") else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let scaler = scaler(Path::new(&folder), &fleet(Path::new(&folder))).await;
        println!("ready");
        loop {
            let drawn = Nonce::fresh().0;
            let step = async {
                match (drawn % 5, resource(&scaler, "mailer").await.replicas) {
                    (0, _) => scale(&scaler, "mailer", Phase::Asleep).await,
                    (_, 0) => scale(&scaler, "mailer", Phase::Waking).await,
                    (count, _) => resize(&scaler, "mailer", count as u32).await,
                }
            };
            // Some calls are given up, as a daemon does whose deadline has come.
            drop(timeout(Duration::from_micros(drawn % 40_000), step).await);
        }
    });
}

/// A daemon that wakes and puts to sleep, for ever.
#[test]
#[ignore = "a program of the other tests"]
fn a_daemon() {
    let (Ok(folder), Ok(port)) = (env::var("SCALER_TEST_DAEMON"), env::var("SCALER_TEST_PORT")) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let folder = PathBuf::from(folder);
        let scaler = scaler(&folder, &resources(&folder, port.parse().unwrap())).await;
        println!("ready");
        loop {
            let now = resource(&scaler, "hello").await;
            let state = if now.replicas == 0 { Phase::Waking } else { Phase::Asleep };
            let wish = request("hello", &now.version, state);
            // Some calls are given up, as a daemon does whose deadline has come.
            let patience = Duration::from_micros(Nonce::fresh().0 % 40_000);
            match timeout(patience, scaler.set_scale(&wish)).await {
                Err(_) | Ok(Ok(()) | Err(ScaleError::Conflict | ScaleError::Retry { .. })) => {}
                Ok(Err(error)) => {
                    fs::OpenOptions::new()
                        .create(true)
                        .append(true)
                        .open(folder.join("errors"))
                        .and_then(|mut file| writeln!(file, "{wish:?}: {error:?}"))
                        .unwrap();
                }
            }
        }
    });
}

/// Killed when the test is over, well or not.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn daemon(name: &str, folder: &Path, port: u16) -> Daemon {
    let program = program(name);
    let mut child = Command::new(&program[0])
        .args(&program[1..])
        .env("SCALER_TEST_DAEMON", folder)
        .env("SCALER_TEST_PORT", port.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert!(lines.any(|line| line.unwrap() == "ready"), "the daemon did not start");
    Daemon(child)
}

#[expect(clippy::disallowed_methods, reason = "the moment of the crash is what is drawn")]
fn crash_after(micros: u64, daemon: Daemon) {
    thread::sleep(Duration::from_micros(micros));
    drop(daemon);
}

/// What is there of runs: shims that hold their lock, and services.
fn living(folder: &Path) -> (usize, usize) {
    let processes = processes_of(folder);
    let shims = processes.iter().filter(|process| process.contains("process-shim run")).count();
    let services = processes
        .iter()
        .filter(|process| process.contains("the_service") && !process.contains(" run "))
        .count();
    (shims, services)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemons_that_are_killed_leave_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let resources = resources(folder.path(), port);
    let (mut awake, mut asleep, mut leaving) = (0, 0, 0);
    for round in 0..crashes() {
        // Every third round two of them, which get in each other's way.
        let mut children: Vec<_> =
            (0..1 + u64::from(round % 3 == 0)).map(|_| daemon("a_daemon", folder.path(), port)).collect();
        while let Some(child) = children.pop() {
            let micros = Nonce::fresh().0 % 60_000;
            tokio::task::spawn_blocking(move || crash_after(micros, child)).await.unwrap();
        }

        // The next daemon.
        let scaler = scaler(folder.path(), &resources).await;
        let found = resource(&scaler, "hello").await;
        let (shims, services) = living(folder.path());
        match (found.replicas, found.status.as_str()) {
            (1, _) => awake += 1,
            (_, "is being stopped") => leaving += 1,
            _ => asleep += 1,
        }
        assert!(services <= 1, "round {round}: {shims} {services} {found:?}");
        loop {
            match scale(&scaler, "hello", Phase::Waking).await {
                Ok(()) => break,
                // What the killed daemon left is just being cleaned up.
                Err(ScaleError::Conflict | ScaleError::Retry { .. }) => {}
                Err(error) => {
                    panic!("round {round}: {error:?} after {found:?}; {:?}", processes_of(folder.path()))
                }
            }
        }
        assert_eq!(resource(&scaler, "hello").await.replicas, 1);
        if round % 2 == 0 {
            scale(&scaler, "hello", Phase::Asleep).await.unwrap();
            assert_eq!(living(folder.path()).1, 0, "round {round}: {:?}", processes_of(folder.path()));
            // A shim whose starter was killed before the word to start ends by itself.
            until_none_is_left(folder.path()).await;
        }
        scaler.stop().await;
    }
    println!("found awake {awake}, being stopped {leaving}, asleep {asleep}");
    let scaler = scaler(folder.path(), &resources).await;
    if resource(&scaler, "hello").await.replicas > 0 {
        scale(&scaler, "hello", Phase::Asleep).await.unwrap();
    }
    until_none_is_left(folder.path()).await;
    assert!(!folder.path().join("twice").exists(), "two ran at the same time");
    if let Ok(errors) = fs::read_to_string(folder.path().join("errors")) {
        panic!("{errors}");
    }
    assert!(awake > 0 && asleep > 0, "the crashes came all in the same place");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemons_that_are_killed_while_they_scale_leave_no_worker_behind() {
    let folder = tempfile::tempdir().unwrap();
    let resources = fleet(folder.path());
    let workers = || {
        let all = processes_of(folder.path());
        all.iter().filter(|process| process.contains("the_worker") && !process.contains(" run ")).count()
    };
    let mut found = std::collections::BTreeSet::new();
    for round in 0..crashes() / 2 {
        let mut children: Vec<_> = (0..1 + u64::from(round % 3 == 0))
            .map(|_| daemon("a_daemon_of_workers", folder.path(), 0))
            .collect();
        while let Some(child) = children.pop() {
            let micros = Nonce::fresh().0 % 100_000;
            tokio::task::spawn_blocking(move || crash_after(micros, child)).await.unwrap();
        }
        // The next daemon.
        let scaler = scaler(folder.path(), &resources).await;
        found.insert(resource(&scaler, "mailer").await.replicas);
        loop {
            let awake = resource(&scaler, "mailer").await.replicas > 0;
            let step = match awake {
                true => resize(&scaler, "mailer", 3).await,
                false => scale(&scaler, "mailer", Phase::Waking).await,
            };
            match step {
                Ok(()) if awake => break,
                Ok(()) | Err(ScaleError::Conflict | ScaleError::Retry { .. }) => {}
                Err(error) => panic!("round {round}: {error:?}; {:?}", processes_of(folder.path())),
            }
        }
        // What a step down took away is on its way out.
        timeout(NEVER, async {
            while (resource(&scaler, "mailer").await.replicas as usize, workers()) != (3, 3) {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("round {round}: {:?}", processes_of(folder.path())));
        if round % 2 == 0 {
            loop {
                match scale(&scaler, "mailer", Phase::Asleep).await {
                    Ok(()) => break,
                    Err(ScaleError::Conflict) => {}
                    Err(error) => panic!("round {round}: {error:?}"),
                }
            }
            assert_eq!(workers(), 0, "round {round}: {:?}", processes_of(folder.path()));
            until_none_is_left(folder.path()).await;
        }
        scaler.stop().await;
    }
    let scaler = scaler(folder.path(), &resources).await;
    scale(&scaler, "mailer", Phase::Asleep).await.unwrap();
    until_none_is_left(folder.path()).await;
    assert!(found.len() > 1, "the crashes came all in the same place: {found:?}");
}
