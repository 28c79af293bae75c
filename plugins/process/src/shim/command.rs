//! The command, started so that it dies with its shim.

use std::{
    ffi::OsString,
    io,
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    process::{Command, Stdio},
};

use rustix::process::Pid;
use scaler_types::kill_with_parent;

use crate::wire::MARK;

/// Starts the command in a process group of its own. It dies with this thread of the shim.
pub fn start(run: &str, words: &[OsString]) -> io::Result<Pid> {
    let log = || io::stderr().as_fd().try_clone_to_owned().map(Stdio::from);
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .env(MARK, run)
        .stdin(Stdio::null())
        .stdout(log()?)
        .stderr(log()?)
        .process_group(0);
    Ok(Pid::from_child(&kill_with_parent(&mut command).spawn()?))
}
