//! The real daemon with plugins that hang or crash while they are loaded: its log says which, and signals end it.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, ChildStderr, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

/// The daemon, started on a folder with such plugins.
struct Daemon {
    child: Child,
    log: BufReader<ChildStderr>,
    _folder: tempfile::TempDir,
}

impl Daemon {
    /// `plugins`: the name of each, and what it does when it is loaded, in C.
    fn start(plugins: &[(&str, &str)], flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, initialiser) in plugins {
            compile(&folder.path().join(name), initialiser);
        }
        let mut child = Command::new(env!("CARGO_BIN_EXE_dlx"))
            .args(["--plugins-dir=.", "--state-dir=.", "--namespace=demo", "--coordinate-by=files"])
            .args(["--listen-address=127.0.0.1:0", "--admin-address=127.0.0.1:0"])
            .args(flags)
            .current_dir(folder.path())
            .env("RUST_LOG", "")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Self { child, log, _folder: folder }
    }

    /// The next line of its log that has all of `parts`.
    fn logs(&mut self, parts: &[&str]) -> String {
        let mut before = String::new();
        for line in (&mut self.log).lines().map(Result::unwrap) {
            if parts.iter().all(|part| line.contains(part)) {
                return line;
            }
            before += &(line + "\n");
        }
        panic!("no line with {parts:?} in:\n{before}");
    }
}

/// Makes a library that looks like a plugin, and does something when it is loaded.
fn compile(library: &Path, initialiser: &str) {
    let source = library.with_extension("c");
    let root = "_1as_0lib_1header_0root_bmodule_bloader";
    let text = format!(
        "#include <stdlib.h>\n#include <unistd.h>\nchar {root}[256];\n\
         __attribute__((constructor)) static void initialise(void) {{ {initialiser} }}\n"
    );
    fs::write(&source, text).unwrap();
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([library, &source]).status();
    assert!(compiled.unwrap().success());
}

const HANGS: (&str, &str) = ("hangs.so", "for (;;) pause();");

#[test]
fn a_signal_ends_a_daemon_whose_plugin_hangs_while_it_is_loaded() {
    let mut daemon = Daemon::start(&[HANGS], &["--plugin-load-timeout=1h"]);
    daemon.logs(&["loading a plugin", "hangs.so"]);
    kill_process(Pid::from_child(&daemon.child), Signal::TERM).unwrap();
    assert!(daemon.child.wait().unwrap().success());
}

#[test]
fn plugins_that_hang_or_crash_while_they_are_loaded_are_named_and_keep_no_other_from_being_loaded() {
    let plugins = [
        ("aborts.so", "abort();"),
        ("exits.so", "_exit(0);"),
        ("fails.so", "_exit(3);"),
        HANGS,
        ("other.so", ""),
    ];
    let mut daemon = Daemon::start(&plugins, &["--plugin-load-timeout=5s"]);
    for (name, _) in plugins {
        daemon.logs(&["loading a plugin", name]);
    }
    for (name, why) in [
        ("aborts.so", "it ends the process that loads it (signal: 6"),
        ("exits.so", "it ends the process that loads it (exit status: 0)"),
        ("fails.so", "it ends the process that loads it (exit status: 3)"),
        ("hangs.so", "it was not loaded within 5s: its initialisers hang"),
        // It has the symbol of a plugin, and nothing behind it.
        ("other.so", "laid out differently"),
    ] {
        daemon.logs(&["plugin not loaded", name, why]);
    }
    assert_eq!(daemon.child.wait().unwrap().code(), Some(78));
}
