//! `cargo xtask run`: an example's file, until it is asked to end.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

#[test]
fn it_runs_a_namespace_file_with_further_flags_until_it_is_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut run = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["run", "examples/config/hello.yaml", "--listen-address", "127.0.0.1:0", "--state-dir"])
        .arg(folder.path())
        .current_dir(workspace)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = String::new();
    let mut stdout = BufReader::new(run.stdout.take().unwrap());
    while !output.contains("hello.localhost:") {
        if stdout.read_line(&mut output).unwrap() == 0 {
            let mut errors = String::new();
            run.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
            panic!("it ended with {}:\n{output}{errors}", run.wait().unwrap());
        }
    }
    assert!(
        output.contains(folder.path().to_str().unwrap()),
        "the state is where it was asked for: {output}"
    );
    kill_process(Pid::from_child(&run), Signal::TERM).unwrap();
    let status = run.wait().unwrap();
    assert!(status.success(), "{status}");
}
