//! Processes that a plugin, or a program that belongs to it, starts.

use std::{io, os::unix::process::CommandExt as _, process::Command};

use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

/// Has the kernel kill the process that `command` starts when the thread that starts it ends, however it ends: with SIGKILL,
/// its process was killed, too. The process's own children are not killed.
///
/// To be called in the process that starts `command`: it starts nothing in another one.
#[expect(
    unsafe_code,
    reason = "only the new process itself can ask for this signal, before it becomes the program"
)]
pub fn kill_with_parent(command: &mut Command) -> &mut Command {
    let parent = getpid();
    let ask = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // It may have ended before that was set.
        if getppid() == Some(parent) { Ok(()) } else { Err(io::Error::from(rustix::io::Errno::SRCH)) }
    };
    // SAFETY: between fork and exec, with the memory of one thread of many, `ask` makes two system calls; it takes no lock
    // and allocates nothing.
    unsafe { command.pre_exec(ask) }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt as _, thread};

    use super::*;

    #[test]
    fn a_process_is_killed_when_the_thread_that_started_it_ends() {
        let start = || kill_with_parent(Command::new("sleep").arg("50")).spawn().unwrap();
        let mut child = thread::spawn(start).join().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }

    #[test]
    fn a_program_that_is_missing_is_told() {
        let error = kill_with_parent(&mut Command::new("no-such-program-here")).spawn().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
