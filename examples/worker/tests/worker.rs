//! A worker takes one job after the other, finishes at SIGTERM the one that it works on, and says whether it is busy.
#![allow(missing_docs)]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

fn start(folder: &Path, more: &[&str]) -> Child {
    let mut worker = Command::new(env!("CARGO_BIN_EXE_worker"));
    worker.arg(folder.join("jobs")).arg("--journal").arg(folder.join("journal")).args(more);
    worker.spawn().unwrap()
}

fn put(folder: &Path, name: &str, takes: &str) {
    fs::write(folder.join("jobs").join(format!(".{name}")), takes).unwrap();
    fs::rename(folder.join("jobs").join(format!(".{name}")), folder.join("jobs").join(name)).unwrap();
}

/// What it wrote down so far, without its pid.
fn journal(folder: &Path) -> Vec<String> {
    let text = fs::read_to_string(folder.join("journal")).unwrap_or_default();
    text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited for {what}");
        std::thread::yield_now();
    }
}

fn busy(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(b"GET /busy HTTP/1.1\r\nHost: worker\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split(' ').nth(1).map(str::to_owned)
}

#[test]
fn at_sigterm_it_finishes_its_job_and_takes_no_other() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("jobs")).unwrap();
    put(folder.path(), "quick", "1ms");
    let mut worker = start(folder.path(), &[]);
    until("the first job", || (journal(folder.path()).last()? == "done quick").then_some(()));
    put(folder.path(), "long", "2s");
    until("the second job", || (journal(folder.path()).last()? == "take long").then_some(()));
    put(folder.path(), "next", "1ms");
    kill_process(Pid::from_child(&worker), Signal::TERM).unwrap();
    let status = worker.wait().unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(
        journal(folder.path()),
        ["start", "take quick", "done quick", "take long", "terminate", "done long"]
    );
    let left: Vec<_> =
        fs::read_dir(folder.path().join("jobs")).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(left, ["next"]);
}

#[test]
fn it_says_whether_it_is_busy() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("jobs")).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut worker = start(folder.path(), &["--busy-port", &port.to_string()]);
    until("an idle worker", || (busy(port)? == "204").then_some(()));
    put(folder.path(), "long", "60s");
    until("a busy worker", || (busy(port)? == "200").then_some(()));
    worker.kill().unwrap();
    worker.wait().unwrap();
}
