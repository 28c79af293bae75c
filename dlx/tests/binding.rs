//! The real DLX with a range of ports of which another process uses one.

#[path = "../src/testing/net.rs"]
mod net;

use std::{
    io::Read as _,
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Output, Stdio},
};

use net::{EVENT_TIMEOUT, free_range, local, raw_at};
use tokio::{task::spawn_blocking, time::timeout};

/// Ends the process with the test.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn dlx(folder: &tempfile::TempDir, admin: SocketAddr, ports: &str) -> Command {
    let plugins = folder.path().join("plugins");
    std::fs::create_dir_all(plugins).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dlx"));
    command
        .current_dir(folder.path())
        .args(["--coordinate-by", "files", "--listen-address", "127.0.0.1:0", "--service-ports", ports])
        .arg("--admin-address")
        .arg(admin.to_string())
        .stderr(Stdio::piped());
    command
}

async fn output(mut command: Command) -> (Option<i32>, String) {
    let ended = spawn_blocking(move || command.output().unwrap());
    let Output { status, stderr, .. } = timeout(EVENT_TIMEOUT, ended).await.expect("it goes on").unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_start_waits_for_a_port_in_use_says_what_to_do_and_registers_no_member_meanwhile() {
    let (folder, ports) = (tempfile::tempdir().unwrap(), free_range(4));
    let other = TcpListener::bind(local(ports.first + 1)).unwrap();
    let admin = local(free_range(5).last);
    let mut dlx = Started(dlx(&folder, admin, &format!("{}-{}", ports.first, ports.last)).spawn().unwrap());
    let why = loop {
        if tokio::net::TcpStream::connect(admin).await.is_ok() {
            let answer = raw_at(admin, b"GET /readyz HTTP/1.1\r\nHost: dlx\r\n\r\n").await;
            if answer.contains("--service-ports") {
                break answer;
            }
        }
        assert!(dlx.0.try_wait().unwrap().is_none(), "it ended");
        tokio::task::yield_now().await;
    };
    assert!(why.starts_with("HTTP/1.1 503"), "{why}");
    assert!(why.contains("1 of the 4 ports"), "{why}");
    let in_use = format!("127.0.0.1:{}: Address already in use", ports.first + 1);
    assert!(why.contains(&in_use), "{why}");
    assert!(why.contains("stop what listens there"), "{why}");
    assert!(!folder.path().join("state").exists(), "registered without its ports");
    // The other ports are bound already.
    assert!(TcpListener::bind(local(ports.last)).is_err());
    drop(other);
    // Its folder of plugins is empty, which it finds only now.
    let ended = spawn_blocking(move || {
        let mut log = String::new();
        dlx.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (dlx.0.wait().unwrap().code(), log)
    });
    let (status, log) = timeout(EVENT_TIMEOUT, ended).await.expect("it goes on").unwrap();
    assert_eq!(status, Some(78), "{log}");
    assert!(log.contains("bound the service ports"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_cannot_be_meant_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let admin = free_range(3);
    let within = format!("{}-{}", admin.first, admin.last);
    let (status, log) = output(dlx(&folder, local(admin.first + 1), &within)).await;
    assert_eq!(status, Some(78), "{log}");
    assert!(log.contains(&format!("{} is --admin-address's", admin.first + 1)), "{log}");
    // More ports than descriptors.
    let command = dlx(&folder, local(0), "20000-21999");
    let mut limited = Command::new("sh");
    let line = format!("ulimit -n 4000 && exec {}", shown(&command));
    limited.current_dir(folder.path()).args(["-c", &line]).stderr(Stdio::piped());
    let (status, log) = output(limited).await;
    assert_eq!(status, Some(78), "{log}");
    assert!(log.contains("4000 descriptors"), "{log}");
}

/// The line that starts it. Nothing in it has to be quoted.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
}
