//! What only several processes can show: members that are stopped or killed, the leader's lock, signals, sockets handed over.
//!
//! Each test starts this same test binary again as its child, with `CHILD` saying what it is to do.

use std::{
    env,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::{fd::OwnedFd, unix::fs::PermissionsExt, unix::process::ExitStatusExt},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

use daemon::{
    coordination::Coordinator,
    leader::{Leader, Timing},
    listen::{InheritedSockets, parse_address},
    members::{Member, files},
    shutdown::Shutdown,
    telemetry::{self, LogFormat},
};
use rustix::process::{Pid, Signal, kill_process};

const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8091);

/// Not a test of its own: what a child does.
#[test]
fn child() {
    let Ok(role) = env::var("CHILD") else { return };
    let state = env::var_os("STATE").unwrap_or_default();
    let state = Path::new(&state);
    match role.as_str() {
        "member" => {
            let registration = files::register(state, ADMIN).unwrap();
            say(registration.name());
            wait_for_end();
        }
        // Registers and leaves, again and again.
        "restless" => {
            for _ in 0..200 {
                let registration = files::register(state, ADMIN).unwrap();
                assert!(files::read(state).unwrap().iter().any(|member| member.name == registration.name()));
            }
            say("done");
        }
        "leader" => {
            let leader = Leader::new(&Coordinator::Files(state.to_owned()), Timing::default());
            let _leadership = runtime().block_on(leader.lead()).unwrap();
            say("leads");
            wait_for_end();
        }
        "drains" => runtime().block_on(async {
            let shutdown = Shutdown::on_signals(Duration::from_secs(3600)).unwrap();
            say("ready");
            shutdown.draining.cancelled().await;
            say("draining");
            shutdown.grace_over().await;
        }),
        // The only worker hangs, as in a plugin that never comes back.
        "hangs" => runtime().block_on(async {
            let _shutdown = Shutdown::on_signals(Duration::from_secs(3600)).unwrap();
            say("ready");
            wait_for_end();
        }),
        "grace" => runtime().block_on(async {
            let shutdown = Shutdown::on_signals(Duration::from_millis(10)).unwrap();
            say("ready");
            shutdown.grace_over().await;
            say("given up");
        }),
        "listens" => {
            let handed = InheritedSockets::take().unwrap();
            assert_eq!(env::var_os("LISTEN_FDS"), None);
            let address: SocketAddr = env::var("ADDRESS").unwrap().parse().unwrap();
            // Its port went and came back: the same socket.
            drop(handed.bind(address).unwrap());
            let listener = handed.bind(address).unwrap();
            listener.set_nonblocking(false).unwrap();
            say("listens");
            let (mut connection, _) = listener.accept().unwrap();
            connection.write_all(b"handed over").unwrap();
        }
        // Names and headers as a client may send them, a panic, and far more than a pipe holds.
        "logs" => {
            telemetry::init(LogFormat::Text);
            tracing::warn!(host = %"a.test\n2026 ERROR forged\u{1b}[2J", "refused a request of %0a\r\nb");
            thread::spawn(|| panic!("in two\nlines")).join().unwrap_err();
            for number in 0..100_000 {
                tracing::info!(target: "daemon", number, "filled a pipe that nobody reads with a line that is not very short");
            }
            say("logged");
            wait_for_end();
            telemetry::flush();
        }
        other => panic!("no such child: {other}"),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Past the test harness, which captures what is printed.
fn say(text: &str) {
    let mut out = std::fs::OpenOptions::new().write(true).open("/proc/self/fd/1").unwrap();
    writeln!(out, "child: {text}").unwrap();
}

/// Until the parent closes the pipe.
fn wait_for_end() {
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

struct Started {
    child: Child,
    stdin: Option<ChildStdin>,
    out: BufReader<ChildStdout>,
}

impl Started {
    fn new(role: &str, state: &Path) -> Self {
        Self::from(Self::command(role, state).stdin(Stdio::piped()))
    }

    fn command(role: &str, state: &Path) -> Command {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "child", "--nocapture"]).env("CHILD", role).env("STATE", state);
        command
    }

    fn from(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, out) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, stdin, out }
    }

    /// What the child says next.
    fn says(&mut self) -> String {
        for line in (&mut self.out).lines() {
            let line = line.unwrap();
            // The harness has begun a line of its own.
            if let Some((_, said)) = line.split_once("child: ") {
                return said.to_owned();
            }
        }
        panic!("the child said nothing more: {:?}", self.child.wait());
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn ends(mut self) -> std::process::ExitStatus {
        drop(self.stdin.take());
        self.child.wait().unwrap()
    }
}

/// Whatever a test does, nothing is left running.
impl Drop for Started {
    fn drop(&mut self) {
        let _ = (self.child.kill(), self.child.wait());
    }
}

fn names(state: &Path) -> Vec<String> {
    files::read(state).unwrap().into_iter().map(|member| member.name).collect()
}

#[test]
fn a_stopped_member_is_one_and_a_killed_one_is_not() {
    let state = tempfile::tempdir().unwrap();
    assert_eq!(names(state.path()), Vec::<String>::new());
    let (mut first, mut second) =
        (Started::new("member", state.path()), Started::new("member", state.path()));
    let mut both = vec![first.says(), second.says()];
    let first_name = both[0].clone();
    let second_name = both[1].clone();
    both.sort();
    assert_eq!(names(state.path()), both);

    first.signal(Signal::STOP);
    assert_eq!(names(state.path()), both);

    first.signal(Signal::KILL);
    first.child.wait().unwrap();
    assert_eq!(names(state.path()), [second_name.as_str()]);
    let left: Vec<_> = std::fs::read_dir(state.path().join("members")).unwrap().collect();
    assert_eq!(left.len(), 1, "what the dead one left is removed: {left:?}");

    assert!(second.ends().success());
    assert_eq!(names(state.path()), Vec::<String>::new());
    // One that comes again is another one.
    let mut again = Started::new("member", state.path());
    assert!(![first_name, second_name].contains(&again.says()));
}

#[test]
fn two_readers_do_not_take_each_other_for_a_member() {
    let state = tempfile::tempdir().unwrap();
    let mut dead = Started::new("member", state.path());
    let file = state.path().join("members").join(format!("{}.json", dead.says()));
    dead.signal(Signal::KILL);
    dead.child.wait().unwrap();
    // What another reader does while it looks whether it is dead.
    let looks = std::fs::File::open(&file).unwrap();
    looks.lock_shared().unwrap();
    assert_eq!(names(state.path()), Vec::<String>::new());
    assert!(!file.exists());
}

#[test]
fn members_come_and_go_while_others_read() {
    let state = tempfile::tempdir().unwrap();
    let mut stays = Started::new("member", state.path());
    let stays_name = stays.says();
    let mut restless: Vec<_> = (0..3).map(|_| Started::new("restless", state.path())).collect();
    thread::scope(|scope| {
        let reads = (0..2).map(|_| {
            scope.spawn(|| {
                for _ in 0..300 {
                    assert!(names(state.path()).contains(&stays_name));
                }
            })
        });
        reads.collect::<Vec<_>>().into_iter().for_each(|read| read.join().unwrap());
        for child in &mut restless {
            assert_eq!(child.says(), "done");
        }
    });
    for child in restless {
        assert!(child.ends().success());
    }
    assert_eq!(names(state.path()), [stays_name]);
    let left: Vec<_> = std::fs::read_dir(state.path().join("members")).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing else is left: {left:?}");
}

#[test]
fn files_of_no_member_are_ignored() {
    let state = tempfile::tempdir().unwrap();
    let registration = files::register(state.path(), parse_address(":8091").unwrap()).unwrap();
    let folder = state.path().join("members");
    for (name, text) in [
        ("empty.json", ""),
        ("garbage.json", "{\"name\": 1"),
        ("notes.txt", "hello"),
        ("long.json", &"[".repeat(10_000)),
    ] {
        std::fs::write(folder.join(name), text).unwrap();
    }
    std::fs::create_dir(folder.join("folder.json")).unwrap();
    std::os::unix::fs::symlink("nowhere", folder.join("dangling.json")).unwrap();
    // Left by a crash before it was complete.
    std::fs::write(folder.join("1-2.unfinished"), "{").unwrap();
    let admin = "127.0.0.1:8091".parse().unwrap();
    let expected = [Member { name: registration.name().to_owned(), admin }];
    assert_eq!(files::read(state.path()).unwrap(), expected);
    assert!(!folder.join("1-2.unfinished").exists());

    // A live member that cannot be read is no reason to believe that there are no others.
    let unreadable = std::fs::File::open(folder.join("garbage.json")).unwrap();
    unreadable.lock().unwrap();
    let error = files::read(state.path()).unwrap_err();
    assert!(error.to_string().contains("garbage.json"), "{error}");
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let state = tempfile::tempdir().unwrap();
    std::fs::write(state.path().join("members"), "a file").unwrap();
    for error in [files::register(state.path(), ADMIN).unwrap_err(), files::read(state.path()).unwrap_err()] {
        assert!(error.to_string().contains(&state.path().join("members").display().to_string()), "{error}");
    }
    // The superuser may write anywhere.
    if rustix::process::geteuid().is_root() {
        return;
    }
    let state = tempfile::tempdir().unwrap();
    std::fs::set_permissions(state.path(), std::fs::Permissions::from_mode(0o500)).unwrap();
    let error = files::register(state.path(), ADMIN).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
}

#[test]
fn the_next_one_leads_when_the_leader_is_killed() {
    let state = tempfile::tempdir().unwrap();
    let mut first = Started::new("leader", state.path());
    assert_eq!(first.says(), "leads");
    let mut second = Started::new("leader", state.path());
    first.signal(Signal::KILL);
    assert_eq!(second.says(), "leads");
    assert!(second.ends().success());
}

#[test]
fn the_first_signal_drains_and_the_second_ends() {
    for (signal, status) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let mut child = Started::new("drains", Path::new(""));
        assert_eq!(child.says(), "ready");
        child.signal(signal);
        assert_eq!(child.says(), "draining");
        child.signal(signal);
        assert_eq!(child.ends().code(), Some(status));
    }
}

#[test]
fn a_process_whose_worker_hangs_ends_all_the_same() {
    let mut child = Started::new("hangs", Path::new(""));
    assert_eq!(child.says(), "ready");
    // Two that come together are one: the second is sent until it is seen.
    let status = loop {
        child.signal(Signal::TERM);
        thread::yield_now();
        if let Some(status) = child.child.try_wait().unwrap() {
            break status;
        }
    };
    assert_eq!((status.code(), status.signal()), (Some(143), None));
}

#[test]
fn the_grace_period_ends() {
    let mut child = Started::new("grace", Path::new(""));
    assert_eq!(child.says(), "ready");
    child.signal(Signal::TERM);
    assert_eq!(child.says(), "given up");
    assert!(child.ends().success());
}

#[test]
fn a_socket_that_was_handed_over_is_found_by_its_address() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let socket = OwnedFd::from(listener.try_clone().unwrap());
    // As a supervisor does: the socket is descriptor 3, and the variables are for this very process.
    let run = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" --exact child --nocapture";
    let mut command = Command::new("sh");
    command.arg("-c").arg(run).arg(env::current_exe().unwrap());
    command.env("CHILD", "listens").env("ADDRESS", address.to_string()).stdin(Stdio::from(socket));
    // It waits in the backlog before anybody accepts.
    let mut client = TcpStream::connect(address).unwrap();
    let mut child = Started::from(&mut command);
    assert_eq!(child.says(), "listens");
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert_eq!(text, "handed over");
    assert!(child.ends().success());
    drop(listener);
}

#[test]
fn a_log_that_nobody_reads_keeps_nobody_waiting_and_no_value_breaks_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let mut logs = Started::from(
        Started::command("logs", folder.path())
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .env("RUST_LOG", ""),
    );
    assert_eq!(logs.says(), "logged");
    let mut log = BufReader::new(logs.child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let first = log.next().unwrap();
    assert!(
        first.ends_with(r"refused a request of %0a\r\nb host=a.test\n2026 ERROR forged\u{1b}[2J"),
        "{first}"
    );
    let second = log.next().unwrap();
    assert!(second.contains("ERROR") && second.contains(r"panicked: in two\nlines at="), "{second}");
    // What found no room is counted, once there is room again.
    let notice = log.find(|line| !line.contains("filled a pipe")).unwrap();
    assert!(notice.contains("dropped log lines: standard error was read too slowly lines="), "{notice}");
    drop(logs.stdin.take());
    assert!(logs.child.wait().unwrap().success());
}
