//! Keeps one process: starts it, reaps it and its orphans, ends it on request, records how it ended.
//!
//! It runs in a session of its own and outlives the daemon that started it. The lock it holds says "this run is alive" to
//! every daemon of the host, and is the kernel's to free.

mod command;
mod group;
#[path = "../wire.rs"]
mod wire;

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    io::{self, BufRead as _, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{ExitCode, ExitStatus},
    thread,
};

use rustix::{
    fs::{CWD, FlockOperation, Mode, OFlags},
    process::{getpid, set_child_subreaper, setsid},
};

use group::Group;
use wire::{Exit, GO, READY};

fn main() -> ExitCode {
    let mut words = env::args_os().skip(1);
    let result = match (words.next().as_ref().and_then(|word| word.to_str()), words.collect::<Vec<_>>()) {
        (Some("run"), words) if words.len() >= 4 && words[2] == "--" => keep(&words),
        _ => Err("usage: process-shim run FOLDER RUN -- COMMAND...\nStarted by Scaler's process plugin, not manually.".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Into the process's log.
            let _ = writeln!(io::stderr(), "process-shim: {error}");
            ExitCode::from(127)
        }
    }
}

fn keep(words: &[OsString]) -> Result<(), String> {
    let folder = PathBuf::from(&words[0]);
    let run = words[1].to_str().ok_or("the run's name is not UTF-8")?.to_owned();
    let fifo = wire::fifo(&folder, &run);
    let commands = match lock(&fifo) {
        Ok(commands) => commands,
        Err(error) => {
            let text = format!("cannot make and lock {}: {error}", fifo.display());
            let _ = writeln!(io::stdout(), "{text}");
            return Err(text);
        }
    };
    let mut word = String::new();
    let told = writeln!(io::stdout(), "{READY}").and_then(|()| io::stdin().lock().read_line(&mut word));
    if told.is_err() || word.trim_end() != GO {
        // The plugin is gone: this run never starts.
        let _ = fs::remove_file(&fifo);
        return Ok(());
    }
    let exit = match command::start(&run, &words[3..]) {
        Ok(leader) => {
            let group = Group::new(leader);
            let listener = group.clone();
            thread::Builder::new()
                .stack_size(64 * 1024)
                .spawn(move || listener.obey(commands))
                .map_err(|error| format!("starting a thread: {error}"))?;
            // On this thread: the kernel's death signal goes by the thread that started the process.
            let (status, stop_requested, killed) = group.wait();
            Exit { run, stop_requested, killed, reason: in_words(status) }
        }
        Err(error) => {
            let reason = format!("cannot start {:?}: {error}", words[3]);
            Exit { run, stop_requested: false, killed: false, reason }
        }
    };
    let temporary = folder.join("exit.json.tmp");
    let text = serde_json::to_vec(&exit).map_err(|error| format!("recording how it ended: {error}"))?;
    fs::write(&temporary, text)
        .and_then(|()| fs::rename(&temporary, Exit::path(&folder)))
        .map_err(|error| format!("recording how it ended: {error}"))?;
    let _ = fs::remove_file(&fifo);
    Ok(())
}

/// The session, the FIFO and the lock.
fn lock(fifo: &Path) -> rustix::io::Result<File> {
    setsid()?;
    set_child_subreaper(Some(getpid()))?;
    rustix::fs::mkfifoat(CWD, fifo, Mode::RUSR | Mode::WUSR)?;
    // Also for writing, so that reading never finds its end.
    let commands = rustix::fs::open(fifo, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    rustix::fs::flock(&commands, FlockOperation::NonBlockingLockExclusive)?;
    Ok(File::from(commands))
}

fn in_words(status: Option<rustix::process::WaitStatus>) -> String {
    let Some(status) = status else { return "ended; its exit status is unknown".to_owned() };
    let status = ExitStatus::from_raw(status.as_raw());
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => format!("ended: {status}"),
    }
}
