//! The command, started so that it dies with its shim.

use std::{
    ffi::OsString,
    io,
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};

use crate::wire::MARK;

/// Starts the command in a process group of its own. It dies with this shim.
pub fn start(run: &str, command: &[OsString]) -> io::Result<Pid> {
    let log = || io::stderr().as_fd().try_clone_to_owned().map(Stdio::from);
    let child = Command::new("/proc/self/exe")
        .arg("exec")
        .arg(getpid().to_string())
        .arg("--")
        .args(command)
        .env(MARK, run)
        .stdin(Stdio::null())
        .stdout(log()?)
        .stderr(log()?)
        .process_group(0)
        .spawn()?;
    Ok(Pid::from_child(&child))
}

/// The new process's first steps, before it becomes the command.
pub fn take_its_place(words: &[OsString]) -> Result<(), String> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| format!("asking to die with the shim: {error}"))?;
    // The shim may have gone before that was set.
    if getppid().is_none_or(|parent| words[0] != *parent.to_string()) {
        return Err("the shim is gone".into());
    }
    let error = Command::new(&words[2]).args(&words[3..]).exec();
    Err(format!("cannot start {:?}: {error}", words[2]))
}
