//! `cargo xtask demo` in a terminal of its own: it leaves nothing running, however it ends.

use std::{
    fs::{self, File},
    io::Read as _,
    os::{fd::OwnedFd, unix::process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{Mode, OFlags, open},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

/// As wide as a terminal usually is when it is opened.
const COLUMNS: u16 = 80;

/// A demo that shows its table, with one of its services awake.
struct Demo {
    child: Child,
    terminal: File,
    /// All it has written.
    output: String,
    folder: PathBuf,
    /// Ends as the last of all.
    clean_up: OwnedFd,
    /// One demo at a time: another could take a port between the look at it and the daemon's start.
    _turn: File,
}

#[test]
fn what_it_shows_fits_the_terminal_and_closing_that_stops_everything() {
    let Demo { child, mut terminal, mut output, folder, clean_up, _turn } = Demo::start();
    read_until(&mut terminal, &mut output, "mailer ", "5 replicas");
    read_until(&mut terminal, &mut output, "mailer ", "asleep");
    for line in output.lines() {
        let line = without_escapes(line);
        assert!(line.trim_end().chars().count() <= usize::from(COLUMNS), "{line}");
    }
    drop(terminal);
    let status = ended(child, &clean_up);
    assert_eq!(status.code(), Some(0), "the demo was asked to end: {status}");
    nothing_is_left(&folder);
}

#[test]
fn sigterm_stops_everything() {
    let Demo { child, terminal: _open, folder, clean_up, _turn, .. } = Demo::start();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let status = ended(child, &clean_up);
    assert_eq!(status.code(), Some(0), "the demo was asked to end: {status}");
    nothing_is_left(&folder);
}

#[test]
fn nothing_is_left_of_a_demo_that_is_killed() {
    let Demo { child, terminal: _open, folder, clean_up, _turn, .. } = Demo::start();
    kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
    let status = ended(child, &clean_up);
    assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "{status}");
    nothing_is_left(&folder);
}

// === impl Demo ===

impl Demo {
    fn start() -> Self {
        let turn = File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join("demo.lock")).unwrap();
        turn.lock().unwrap();
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let size = Winsize { ws_row: 30, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&terminal, size).unwrap();
        let other_end = ptsname(&terminal, Vec::new()).unwrap();
        let other_end =
            open(other_end, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let stdio = || Stdio::from(other_end.try_clone().unwrap());
        // The terminal is its own, so that the kernel signals it when this end is closed.
        let mut command = Command::new("setsid");
        command.args(["--ctty", env!("CARGO_BIN_EXE_xtask"), "demo"]);
        let child = command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap();
        drop(command);
        drop(other_end);

        let mut terminal = File::from(terminal);
        let mut output = String::new();
        read_until(&mut terminal, &mut output, "visited ", "active");
        let folder =
            output.lines().find_map(|line| line.trim().strip_prefix("logs")).expect("the folder of the logs");
        let folder = PathBuf::from(folder.trim());
        let mut running = of_scene(&folder);
        running.retain(|(_, name)| ["autoscaler", "dlx", "process-shim", "hello"].contains(&name.as_str()));
        assert_eq!(running.len(), 4, "both daemons, and a service with its shim: {running:?}");
        let argument = folder.to_str().unwrap();
        let clean_up = processes()
            .find(|(_, process)| {
                let line = fs::read(process.join("cmdline")).unwrap_or_default();
                let line: Vec<_> = line.split(|byte| *byte == 0).collect();
                line.ends_with(&[b"clean-up", argument.as_bytes(), b""])
            })
            .expect("the process that cleans up");
        let clean_up = pidfd_open(clean_up.0, PidfdFlags::empty()).unwrap();
        Self { child, terminal, output, folder, clean_up, _turn: turn }
    }
}

/// Reads what the demo shows, until the last line of a resource has this text.
fn read_until(terminal: &mut File, output: &mut String, name: &str, text: &str) {
    let has_text = |output: &str| {
        let line = output.lines().rfind(|line| line.contains(name)).unwrap_or_default();
        without_escapes(line).contains(text)
    };
    while !has_text(output) {
        let mut bytes = [0; 4096];
        let read = terminal.read(&mut bytes).unwrap_or_else(|error| panic!("{error} after:\n{output}"));
        *output += &String::from_utf8_lossy(&bytes[..read]);
    }
}

/// Waits until the demo and the process that cleans up have ended.
fn ended(mut child: Child, clean_up: &OwnedFd) -> std::process::ExitStatus {
    let status = child.wait().unwrap();
    poll(&mut [PollFd::new(clean_up, PollFlags::IN)], None).unwrap();
    status
}

fn nothing_is_left(folder: &Path) {
    let left = of_scene(folder);
    for (pid, _) in &left {
        let _ = kill_process(*pid, Signal::KILL);
    }
    assert_eq!(left, []);
    assert!(!folder.exists(), "{} is still there", folder.display());
}

/// What runs of the demo with this folder: the process and its name.
fn of_scene(folder: &Path) -> Vec<(Pid, String)> {
    let mark = format!("SCALER_SCENE={}", folder.display());
    let marked = |process: &Path| {
        let environment = fs::read(process.join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    };
    let name =
        |process: &Path| fs::read_to_string(process.join("comm")).unwrap_or_default().trim().to_owned();
    processes().filter(|(_, process)| marked(process)).map(|(pid, process)| (pid, name(&process))).collect()
}

/// All processes, with their folders in /proc.
fn processes() -> impl Iterator<Item = (Pid, PathBuf)> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| Some((Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?, entry.path())))
}

/// A line as it is seen: without colours and movements of the cursor.
fn without_escapes(line: &str) -> String {
    let mut parts = line.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    let rest = parts.map(|part| part.trim_start_matches(|letter: char| letter.is_ascii_digit()));
    rest.fold(first, |text, part| text + part.get(1..).unwrap_or_default())
}
