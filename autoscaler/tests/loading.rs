//! The real daemon and its commands with a plugin that hangs while it is loaded.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

/// A folder with a library that looks like a plugin, and never comes back from being loaded.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let text = "#include <unistd.h>\nchar _1as_0lib_1header_0root_bmodule_bloader[256];\n\
                __attribute__((constructor)) static void hang(void) { for (;;) pause(); }\n";
    fs::write(at("hangs.c"), text).unwrap();
    let compiled =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([at("hangs.so"), at("hangs.c")]).status();
    assert!(compiled.unwrap().success());
    folder
}

fn autoscaler(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_autoscaler"));
    command.current_dir(folder).env("RUST_LOG", "").stderr(Stdio::piped()).stdout(Stdio::piped());
    command
}

#[test]
fn a_signal_ends_a_daemon_whose_plugin_hangs_while_it_is_loaded() {
    let folder = folder();
    let mut daemon = autoscaler(folder.path())
        .args(["--plugins-dir=.", "--state-dir=.", "--namespace=demo", "--coordinate-by=files"])
        .args(["--admin-address=127.0.0.1:0", "--plugin-load-timeout=1h"])
        .spawn()
        .unwrap();
    let mut log = BufReader::new(daemon.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(log.any(|line| line.contains("loading a plugin") && line.contains("hangs.so")));
    kill_process(Pid::from_child(&daemon), Signal::TERM).unwrap();
    assert!(daemon.wait().unwrap().success());
}
